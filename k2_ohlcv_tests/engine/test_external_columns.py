"""Columns by field id: whatever their owner calls them, or called them when a snapshot was made."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import Table
from pyiceberg.types import DoubleType, IcebergType, LongType, StringType, TimestampType, TimestamptzType

from k2_ohlcv.domain.candle import Candle, Trade, aggregate
from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine.rollup import compute_windows, describe_invalid_rows
from k2_ohlcv.frames.candles import candles_from_windows
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.trade_columns import read_field_ids, trades_time_unit
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import make_trade

AT = datetime(2024, 5, 17, 12, tzinfo=UTC)
HOUR = find_timeframe("1h")
COLUMNS: dict[str, IcebergType] = {
    "exchange": StringType(),
    "symbol": StringType(),
    "trade_id": LongType(),
    "timestamp": TimestamptzType(),
    "price": DoubleType(),
    "quantity": DoubleType(),
}
#: Prices and quantities cannot be mistaken for each other.
SOME = [make_trade(n, AT + timedelta(seconds=n), 100 + n, n + 1, market=("X", "A")) for n in range(5)]
#: What a reader makes of them that takes prices for quantities.
SWAPPED = [replace(t, price=t.quantity, quantity=t.price) for t in SOME]


def rows(some: list[Trade], **named: str) -> list[dict[str, object]]:
    """Trades as rows of a table that calls some of our columns otherwise."""
    plain = [vars(t) | {"trade_id": int(t.trade_id)} for t in some]
    return [
        {named.get(k, k): float(v) if isinstance(v, Decimal) else v for k, v in one.items()} for one in plain
    ]


def made(each_engine: EngineLake) -> Table:
    return external_tables.create_table(each_engine.lake, COLUMNS, rows(SOME))


def read(each_engine: EngineLake, table: Table, **columns: str) -> list[Candle]:
    trades = Lake(
        each_engine.lake.catalog, ExternalTradesConfig(table.name(), tuple(columns.items()))
    ).trades()
    snapshot = trades.metadata.current_snapshot_id
    assert snapshot is not None
    found = compute_windows(each_engine.engine, trades, snapshot, HOUR, [HOUR.window(AT)])
    return [Candle(**row) for row in candles_from_windows(found, HOUR)[0].to_dicts()]


def renamed(table: Table, *names: tuple[str, str]) -> None:
    """Change nothing but names, as their owner does: no snapshot is made by it."""
    for old, new in names:
        with table.refresh().update_schema() as update:
            update.rename_column(old, new)
    table.refresh()


def test_a_renamed_column_is_read_at_a_snapshot_that_knew_its_old_name(each_engine: EngineLake) -> None:
    table = made(each_engine)
    renamed(table, ("price", "px"), ("timestamp", "at"))
    assert read(each_engine, table, price="px", timestamp="at") == aggregate(SOME, HOUR)
    external_tables.add_rows(
        table, rows([make_trade("9", AT, 1, 1, market=("X", "A"))], price="px", timestamp="at")
    )
    more = [*SOME, make_trade("9", AT, 1, 1, market=("X", "A"))]
    assert read(each_engine, table, price="px", timestamp="at") == aggregate(more, HOUR)


SWAP = (("price", "other"), ("quantity", "price"), ("other", "quantity"))


def test_columns_that_exchanged_their_names_are_what_they_are_called_now(each_engine: EngineLake) -> None:
    """By name in the old schema, the price would still be the price."""
    table = made(each_engine)
    renamed(table, *SWAP)
    assert read(each_engine, table) == aggregate(SWAPPED, HOUR)
    assert read(each_engine, table, price="quantity", quantity="price") == aggregate(SOME, HOUR)


@pytest.mark.parametrize("local", [True, False])
def test_time_columns_that_exchanged_their_names(each_engine: EngineLake, local: bool) -> None:
    """An engine that plans files by the current name would rule out the ones that matter."""
    kind = TimestampType() if local else TimestamptzType()
    table = external_tables.create_table(each_engine.lake, COLUMNS | {"timestamp": kind, "received": kind})
    for first in (0, 1):
        late = [row | {"received": AT + timedelta(days=3)} for row in rows(SOME[first::2])]
        plain: dict[str, object] = {"tzinfo": None} if local else {}
        stamps = ("timestamp", "received")
        external_tables.add_rows(table, [row | {n: row[n].replace(**plain) for n in stamps} for row in late])  # type: ignore[attr-defined]
    renamed(table, ("timestamp", "other"), ("received", "timestamp"), ("other", "received"))
    assert read(each_engine, table, timestamp="received") == aggregate(SOME, HOUR)
    assert read(each_engine, table) == []


def test_a_column_added_again_under_its_old_name_is_another_one(each_engine: EngineLake) -> None:
    """At the snapshot before, it does not exist: null in every row, and refused by name."""
    table = made(each_engine)
    with table.update_schema() as update:
        update.delete_column("price")
    with table.refresh().update_schema() as update:
        update.add_column("price", DoubleType())
    table.refresh()
    with pytest.raises(TableSpecError, match=r"no values yet in the column price \(for price\).*next commit"):
        read(each_engine, table)
    external_tables.add_rows(table, rows(SOME))
    assert read(each_engine, table) == [], "no candle is made of it"
    trades = Lake(each_engine.lake.catalog, ExternalTradesConfig(table.name())).trades()
    named = describe_invalid_rows(
        each_engine.engine, trades, trades.metadata.current_snapshot_id or 0, [HOUR.window(AT)]
    )
    assert "price=None" in named


def test_a_renamed_column_of_our_own_table_is_found(each_engine: EngineLake) -> None:
    """Exchange and symbol are of one type: only their ids tell which is which at an older snapshot."""
    table = lakes.add_trades(each_engine.lake, SOME)
    renamed(table, ("exchange", "other"), ("symbol", "exchange"), ("other", "symbol"))
    with table.update_schema() as update:
        update.move_before("exchange", "symbol")
    trades, other = each_engine.lake.trades(), [replace(t, exchange="A", symbol="X") for t in SOME]
    snapshot = trades.metadata.current_snapshot_id
    assert snapshot is not None
    assert read_field_ids(trades)["exchange"] == 2
    found = compute_windows(each_engine.engine, trades, snapshot, HOUR, [HOUR.window(AT)])
    assert [Candle(**row) for row in candles_from_windows(found, HOUR)[0].to_dicts()] == aggregate(
        other, HOUR
    )


def test_what_is_read_can_be_told(lake: Lake) -> None:
    """For whoever remembers of what candles were made."""
    ours = lake.writable_trades()
    names = ["exchange", "symbol", "trade_id", "timestamp", "price", "quantity"]
    assert read_field_ids(ours) == {name: i for i, name in enumerate(names, start=1)}
    assert trades_time_unit(ours) == "zoned"
    table = external_tables.create_table(lake, COLUMNS | {"timestamp": LongType()})
    found = Lake(lake.catalog, ExternalTradesConfig(table.name(), (("trade_id", ""),))).trades()
    assert read_field_ids(found) == {n: i for i, n in enumerate(names, start=1) if n != "trade_id"}
    assert trades_time_unit(found) == "micros"


def add_file(table: Table, names: list[str], some: list[Trade] = SOME) -> None:
    """Add a file as it is, without field ids, its columns under these names."""
    path = f"{table.location()}/data/added-{len(table.snapshots())}.parquet"
    found = external_tables.to_arrow(table, rows(some)).rename_columns(names)
    bare = pa.Table.from_arrays(found.columns, names=names)
    with table.io.new_output(path).create() as stream:
        pq.write_table(bare, stream)
    table.add_files([path])
    table.refresh()


def test_files_without_field_ids_are_read_by_name(each_engine: EngineLake) -> None:
    table = external_tables.create_table(each_engine.lake, COLUMNS)
    add_file(table, list(COLUMNS))
    assert read(each_engine, table) == aggregate(SOME, HOUR)


@pytest.mark.parametrize("how", ["mapping", "renamed"])
def test_files_added_under_other_names_are_read_so_or_refused(each_engine: EngineLake, how: str) -> None:
    """Spark goes by the table's name mapping. Sail does not, and would take prices for quantities."""
    table = external_tables.create_table(each_engine.lake, COLUMNS)
    add_file(table, list(COLUMNS))
    if how == "mapping":
        mapping = table.properties["schema.name-mapping.default"]
        swapped = mapping.replace("price", "?").replace("quantity", "price").replace("?", "quantity")
        table.transaction().set_properties({"schema.name-mapping.default": swapped}).commit_transaction()
    else:
        renamed(table, *SWAP)
    wanted: Callable[[], list[Candle]] = lambda: read(each_engine, table.refresh())  # noqa: E731 - called twice
    if each_engine.engine.embedded:
        with pytest.raises(TableSpecError, match=r"without field ids.*rewrite_data_files"):
            wanted()
    else:
        by_name = [Trade(*row.values()) for row in _by_pyiceberg(table)]
        assert wanted() == aggregate(by_name, HOUR)


def _by_pyiceberg(table: Table) -> list[dict[str, Any]]:
    found = table.refresh().scan().to_arrow().select(list(COLUMNS)).to_pylist()
    return [
        r | {"trade_id": str(r["trade_id"])} | {n: Decimal(r[n]) for n in ("price", "quantity")}
        for r in found
    ]


def test_a_swapped_name_that_no_file_depends_on_is_no_harm(sail: EngineLake) -> None:
    """Files that have field ids need no mapping."""
    table = made(sail)
    mapping = '[{"names": ["quantity"], "field-id": 5}, {"names": ["price"], "field-id": 6}]'
    table.transaction().set_properties({"schema.name-mapping.default": mapping}).commit_transaction()
    assert read(sail, table.refresh()) == aggregate(SOME, HOUR)


def test_a_window_of_all_times_can_be_asked_for(sail: EngineLake) -> None:
    table = made(sail)
    trades = Lake(sail.lake.catalog, ExternalTradesConfig(table.name())).trades()
    snapshot = trades.metadata.current_snapshot_id
    assert snapshot is not None
    ever = Interval(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
    assert compute_windows(sail.engine, trades, snapshot, HOUR, [ever]).num_rows == 1
