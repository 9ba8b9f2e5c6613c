"""Someone else's trades table: named by settings, verified when first used, never written to."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.table import Table
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    YearTransform,
)
from pyiceberg.types import (
    DateType,
    DoubleType,
    FloatType,
    IcebergType,
    LongType,
    StringType,
    TimestampType,
    TimestamptzType,
)
from structlog.testing import capture_logs

from k2_ohlcv.domain.errors import TableSpecError, UsageError
from k2_ohlcv.domain.intervals import MICROSECOND, Interval, to_micros
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake import external_verification
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTrades, ExternalTradesConfig, find_time_column
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.time_column import TimeUnit
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import external_tables, lakes

AT = datetime(2024, 5, 17, 13, 45, 30, 123456, tzinfo=UTC)
ROW = {"exchange": "X", "symbol": "A", "trade_id": 1, "timestamp": AT, "price": 0.5, "quantity": 2.0}


@pytest.fixture(autouse=True)
def _unsaid() -> Iterator[None]:
    external_verification._warn_about_doubles.cache_clear()
    yield
    external_verification._warn_about_doubles.cache_clear()


def reading(lake: Lake, table: Table, **columns: str) -> Lake:
    """The lake with someone else's trades."""
    return Lake(lake.catalog, ExternalTradesConfig(table.name(), tuple(columns.items())))


def timed(lake: Lake, kind: IcebergType, value: object, **more: object) -> ExternalTrades:
    table = external_tables.create_table(
        lake,
        external_tables.COLUMNS | {"timestamp": kind},
        [ROW | {"timestamp": value}],
        **more,  # type: ignore[arg-type]
    )
    found = reading(lake, table).trades()
    assert isinstance(found, ExternalTrades)
    return found


def foreign_of(lake: Lake, table: Table) -> ExternalTrades:
    found = reading(lake, table).trades()
    assert isinstance(found, ExternalTrades)
    return found


def span(table: ExternalTrades) -> Interval:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    (file,) = live_files(table, snapshot.snapshot_id)
    return file.span


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"K2_TRADES_TABLE": "trades"}, r"K2_TRADES_TABLE='trades'.*namespace\.table"),
        ({"K2_TRADES_TABLE": "a..b"}, "namespace.table"),
        ({"K2_TRADES_COLUMNS": "price=p"}, "K2_TRADES_TABLE, which is not set"),
        ({"K2_TRADES_KEPT": "90d"}, "K2_TRADES_TABLE are kept, which is not set: K2_RETENTION_TRADES"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_KEPT": "90"}, "K2_TRADES_KEPT='90' is not a.*such as 30d"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_KEPT": "1d"}, "K2_TRADES_KEPT='1d' is too short"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_COLUMNS": "prize=p"}, "'prize=p'.*one of exchange"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_COLUMNS": "price"}, "'price' is not name=column"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_COLUMNS": "price="}, "'price=' is not name=column"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_COLUMNS": "price=p,price=q"}, "each once"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(environ: Mapping[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings.from_environ(environ)


def test_settings_name_the_table_and_its_columns(tmp_path: Path) -> None:
    environ = {"K2_TRADES_TABLE": "far.away.trades", "K2_TRADES_COLUMNS": " timestamp=at , trade_id= "}
    lake = Lake.open(lakes.lake_settings(tmp_path, **environ))
    assert lake.source == ExternalTradesConfig(
        ("far", "away", "trades"), (("timestamp", "at"), ("trade_id", ""))
    )
    assert not lake.has_own_trades
    assert lakes.open_lake(tmp_path).has_own_trades
    kept = Lake.open(lakes.lake_settings(tmp_path, K2_TRADES_TABLE="a.b", K2_TRADES_KEPT="2w")).source
    assert kept == ExternalTradesConfig(("a", "b"), (), timedelta(weeks=2))


def test_everything_that_is_missing_or_wrong_is_named_at_once(lake: Lake) -> None:
    columns = {"venue": StringType(), "symbol": LongType(), "price": FloatType(), "timestamp": DateType()}
    table = external_tables.create_table(lake, columns)
    with pytest.raises(TableSpecError) as caught:
        reading(lake, table, exchange="venue", quantity="size", trade_id="seq").trades()
    message = str(caught.value)
    for part in (
        "column symbol for symbol is long, and must be a string",
        "column price for price is float, and must be a decimal or a double",
        "column timestamp for timestamp is date, and must be a timestamp with or without zone, or a long",
        "there is no column size for quantity: set quantity=<the column's name>",
        "there is no column seq for trade_id",
        "Its columns are venue, symbol, price, timestamp",
        "K2_TRADES_COLUMNS",
    ):
        assert part in message
    assert "exchange:" not in message


def test_a_table_that_is_not_there_is_named(lake: Lake) -> None:
    with pytest.raises(TableSpecError, match=r"no table far\.away in the catalog k2: set K2_TRADES_TABLE"):
        Lake(lake.catalog, ExternalTradesConfig(("far", "away"))).trades()


def test_only_ids_may_be_missing(lake: Lake) -> None:
    without = {name: kind for name, kind in external_tables.COLUMNS.items() if name != "trade_id"}
    found = reading(lake, external_tables.create_table(lake, without)).trades()
    assert isinstance(found, ExternalTrades)
    assert found.field("trade_id") is None
    unwanted = reading(
        lake, external_tables.create_table(lake, external_tables.COLUMNS), trade_id=""
    ).trades()
    assert isinstance(unwanted, ExternalTrades)
    assert unwanted.field("trade_id") is None


def test_doubles_are_said_once(lake: Lake) -> None:
    source = reading(lake, external_tables.create_table(lake, external_tables.COLUMNS))
    with capture_logs() as logs:
        source.trades()
        source.trades()
    assert [(line["event"], line["columns"]) for line in logs] == [
        ("doubles are read as decimals", "price, quantity")
    ]


def test_nothing_is_ever_written_to_it(lake: Lake) -> None:
    table = external_tables.create_table(lake, external_tables.COLUMNS, [ROW])
    source = reading(lake, table)
    with pytest.raises(UsageError, match="is an external table and is never written to"):
        source.writable_trades()
    with pytest.raises(UsageError, match="is an external table"):
        source.trades().append(table.scan().to_arrow())
    assert len(table.refresh().snapshots()) == 1
    assert lake.writable_trades().name() == lake.trades().name()


@pytest.mark.parametrize(
    ("kind", "value", "clock"),
    [
        (TimestamptzType(), AT, TimeUnit.ZONED),
        (TimestampType(), AT.replace(tzinfo=None), TimeUnit.LOCAL),
        (LongType(), to_micros(AT), TimeUnit.MICROS),
        (LongType(), to_micros(AT) // 1000, TimeUnit.MILLIS),
    ],
)
def test_spans_come_from_the_bounds_of_any_kind_of_time(
    lake: Lake, kind: IcebergType, value: object, clock: TimeUnit
) -> None:
    found = timed(lake, kind, value)
    moment = AT.replace(microsecond=123000) if clock is TimeUnit.MILLIS else AT
    assert found.time_unit is clock
    assert span(found) == Interval(moment, moment + MICROSECOND)
    read = pl.DataFrame(found.scan().to_arrow())["timestamp"]
    assert find_time_column(found, "timestamp").micros(read).to_list() == [to_micros(moment)]


def test_values_of_another_unit_have_no_time(lake: Lake) -> None:
    time = find_time_column(timed(lake, LongType(), to_micros(AT) // 1000), "timestamp")
    values = pl.Series([1_700_000_000_000, 1_700_000_000_000_000, 0, None])
    assert time.micros(values).to_list() == [1_700_000_000_000_000, None, None, None]


@pytest.mark.parametrize("value", [0, to_micros(AT) // 10**6, to_micros(AT) * 1000, -5])
def test_a_long_of_another_unit_is_refused(lake: Lake, value: int) -> None:
    with pytest.raises(TableSpecError, match=f"has {value} in .*milliseconds or microseconds"):
        timed(lake, LongType(), value)


@pytest.mark.parametrize("unit", [1, 1000])
def test_one_stray_row_does_not_change_the_unit(lake: Lake, unit: int) -> None:
    """9999-12-31 in milliseconds has the magnitude of microseconds; in a newer file and in the only one."""
    usual = ROW | {"timestamp": to_micros(AT) // unit}
    stray = ROW | {"timestamp": 253_402_300_799_999_999 // unit}
    table = external_tables.create_table(
        lake, external_tables.COLUMNS | {"timestamp": LongType()}, [usual, stray]
    )
    wanted = TimeUnit.MILLIS if unit == 1000 else TimeUnit.MICROS
    assert foreign_of(lake, table).time_unit is wanted
    external_tables.add_rows(table, [stray])
    assert foreign_of(lake, table).time_unit is wanted


def test_a_long_whose_unit_cannot_be_told_is_refused(lake: Lake) -> None:
    with pytest.raises(TableSpecError, match=r"Set write\.metadata\.metrics\.column\.timestamp=full"):
        timed(lake, LongType(), 5, properties=_NO_BOUNDS)
    empty = reading(
        lake, external_tables.create_table(lake, external_tables.COLUMNS | {"timestamp": LongType()})
    ).trades()
    assert isinstance(empty, ExternalTrades)


_NO_BOUNDS = {"write.metadata.metrics.default": "none"}


@pytest.mark.parametrize(
    ("transform", "wanted"),
    [
        (DayTransform(), Interval(datetime(2024, 5, 17, tzinfo=UTC), datetime(2024, 5, 18, tzinfo=UTC))),
        (MonthTransform(), Interval(datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC))),
        (YearTransform(), Interval(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))),
        (
            HourTransform(),
            Interval(datetime(2024, 5, 17, 13, tzinfo=UTC), datetime(2024, 5, 17, 14, tzinfo=UTC)),
        ),
        (IdentityTransform(), Interval(AT, AT + MICROSECOND)),
        (BucketTransform(4), possible_trade_times()),
        (None, possible_trade_times()),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_a_file_without_bounds_counts_as_its_partition(
    lake: Lake, transform: Transform[object, object] | None, wanted: Interval, local: bool
) -> None:
    kind, value = (TimestampType(), AT.replace(tzinfo=None)) if local else (TimestamptzType(), AT)
    fields = [PartitionField(2, 1000, IdentityTransform(), "market")]
    fields += [PartitionField(4, 1001, transform, "part")] if transform else []
    found = timed(lake, kind, value, spec=PartitionSpec(*fields), properties=_NO_BOUNDS)
    assert span(found) == wanted


def test_truncated_longs_are_partitions_of_time(lake: Lake) -> None:
    spec = PartitionSpec(PartitionField(4, 1000, TruncateTransform(86_400_000), "day"))
    table = external_tables.create_table(
        lake,
        external_tables.COLUMNS | {"timestamp": LongType()},
        [ROW | {"timestamp": to_micros(AT) // 1000}],
        spec=spec,
    )
    found = ExternalTrades(table, {"timestamp": 4}, TimeUnit.MILLIS)
    snapshot = found.current_snapshot()
    assert snapshot is not None
    (file,) = live_files(found, snapshot.snapshot_id)
    bare = file.file
    bare._data[10] = bare._data[11] = None  # as a writer leaves it that keeps no bounds
    assert found.span(bare) == Grain.DAY.partition(AT)


def test_deletes_without_a_partition_of_time_may_be_anywhere(lake: Lake) -> None:
    found = timed(lake, TimestamptzType(), AT)
    external_tables.delete_positions(
        lake.catalog.load_table(found.name()), [(lakes.list_data_files(found)[0], 0)]
    )
    found.refresh()
    snapshot = found.current_snapshot()
    assert snapshot is not None
    spans = {f.is_delete: f.span for f in live_files(found, snapshot.snapshot_id)}
    assert spans == {False: Interval(AT, AT + MICROSECOND), True: possible_trade_times()}


def test_columns_that_differ_only_in_case_are_refused_by_name(lake: Lake) -> None:
    """Engines would take them for one. Such columns that are not read are no harm."""
    with pytest.raises(TableSpecError, match="columns price and Price differ only in case"):
        reading(
            lake, external_tables.create_table(lake, external_tables.COLUMNS | {"Price": DoubleType()})
        ).trades()
    other = external_tables.create_table(
        lake, external_tables.COLUMNS | {"note": StringType(), "Note": StringType()}
    )
    assert reading(lake, other).trades().name() == other.name()
