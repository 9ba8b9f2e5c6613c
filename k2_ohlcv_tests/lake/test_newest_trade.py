"""The newest trade, by market and id, in tables of all kinds."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.transforms import DayTransform
from pyiceberg.types import DecimalType, IcebergType, LongType, StringType, TimestampType, TimestamptzType
from structlog.testing import capture_logs

from k2_ohlcv.domain.intervals import to_micros
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.history_bounds import newest_trade_time
from k2_ohlcv.lake.newest_trade import NewestTrade, find_newest_trade
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.external_trades import NO_BOUNDS
from k2_ohlcv_tests.support.trades import make_trade

AT = datetime(2024, 3, 1, 12, 30, 0, 123000, tzinfo=UTC)
MOMENTS = [AT - timedelta(days=1), AT, AT - timedelta(microseconds=1000)]
NEWEST = NewestTrade(AT, "E1", "S1", "1")


def test_an_empty_table_has_no_newest_trade(lake: Lake) -> None:
    """The result is None."""
    lake.writable_trades()
    assert find_newest_trade(lake.trades()) is None


def test_the_newest_trade_of_own_trades(lake: Lake) -> None:
    """The text names id, market and time."""
    lake.writable_trades()
    for i, at in enumerate(MOMENTS):
        lakes.add_trades(lake, [make_trade(i, at, 1, 1, market=(f"E{i}", f"S{i}"))])
    assert find_newest_trade(lake.trades()) == NEWEST
    assert NEWEST.as_text == "trade 1 of E1 S1 at 2024-03-01 12:30:00 UTC"


DAILY = PartitionSpec(PartitionField(4, 1000, DayTransform(), "day"))


def open_external(
    lake: Lake,
    kind: IcebergType,
    values: list[Any],
    properties: Mapping[str, str] = {},
    spec: PartitionSpec | None = DAILY,
) -> Any:
    columns = {
        "venue": StringType(),
        "symbol": StringType(),
        "seq": LongType(),
        "t": kind,
        "price": DecimalType(18, 8),
        "quantity": DecimalType(18, 8),
    }
    rows = [
        {"venue": f"E{i}", "symbol": f"S{i}", "seq": i, "t": t, "price": Decimal(1), "quantity": Decimal(1)}
        for i, t in enumerate(values)
    ]
    if spec is None or isinstance(kind, LongType):
        spec = UNPARTITIONED_PARTITION_SPEC
    table = external_tables.create_table(lake, columns, rows, properties=properties, spec=spec)
    mapping = (("exchange", "venue"), ("trade_id", "seq"), ("timestamp", "t"))
    return Lake(lake.catalog, ExternalTradesConfig(table.name(), mapping)).trades()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TimestamptzType(), lambda at: at),
        (TimestampType(), lambda at: at.replace(tzinfo=None)),
        (LongType(), to_micros),
        (LongType(), lambda at: to_micros(at) // 1000),
    ],
    ids=["zoned", "local", "micros", "millis"],
)
def test_the_newest_trade_of_an_external_table(lake: Lake, kind: IcebergType, value: Any) -> None:
    """The time column may have any supported type."""
    assert find_newest_trade(open_external(lake, kind, [value(at) for at in MOMENTS])) == NEWEST


def test_files_without_bounds_are_found_by_partition(lake: Lake) -> None:
    """Column statistics are not needed."""
    assert find_newest_trade(open_external(lake, TimestamptzType(), MOMENTS, NO_BOUNDS)) == NEWEST


def test_an_impossible_time_is_not_the_newest(lake: Lake) -> None:
    """Retention measures age from the named trade. This is true for a file with both kinds of time."""
    far, ahead = datetime(9999, 12, 31, tzinfo=UTC), datetime.now(UTC) + timedelta(days=30)
    trades = [(1, AT - timedelta(days=1)), (2, AT), (3, ahead), (4, far)]
    for number, at in trades:
        lakes.add_trades(lake, [make_trade(number, at, 1, 1, market=("E", "S"))])
    assert find_newest_trade(lake.trades()) == NewestTrade(AT, "E", "S", "2")
    external = open_external(lake, TimestamptzType(), [AT, far], spec=None)
    assert find_newest_trade(external) == NewestTrade(AT, "E0", "S0", "0")
    assert newest_trade_time(external) == AT


def test_only_impossible_times_have_no_newest(lake: Lake) -> None:
    """The result is None."""
    far = datetime(9999, 12, 31, tzinfo=UTC)
    lakes.add_trades(lake, [make_trade(1, far, 1, 1, market=("E", "S"))])
    assert find_newest_trade(lake.trades()) is None


def test_renamed_columns_are_read_by_their_new_names(lake: Lake) -> None:
    """The rename changed metadata alone, so the snapshot's schema has the old names."""
    trades = open_external(lake, TimestamptzType(), MOMENTS)
    table = lake.catalog.load_table(trades.name())
    with table.update_schema() as update:
        update.rename_column("venue", "market").rename_column("t", "time").rename_column("symbol", "venue")
    columns = (("exchange", "market"), ("symbol", "venue"), ("trade_id", "seq"), ("timestamp", "time"))
    assert (
        find_newest_trade(Lake(lake.catalog, ExternalTradesConfig(trades.name(), columns)).trades()) == NEWEST
    )


def test_an_unreadable_newest_trade_has_its_time(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time comes from metadata, and the read error is logged."""
    trades = open_external(lake, TimestamptzType(), MOMENTS)

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("PyIceberg does not yet support equality deletes")

    monkeypatch.setattr(type(trades), "scan", refuse)
    with capture_logs() as logs:
        newest = find_newest_trade(trades)
    assert newest == NewestTrade(AT)
    assert newest.as_text == "a trade of 2024-03-01 12:30:00 UTC, whose row cannot be read"
    assert [entry["event"] for entry in logs] == ["the newest trade cannot be read"]
