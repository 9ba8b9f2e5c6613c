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
from k2_ohlcv.domain.errors import ContractError
from k2_ohlcv.domain.frame import finish
from k2_ohlcv.domain.timeframe import timeframe
from k2_ohlcv.domain.window import Interval
from k2_ohlcv.engine.rollup import describe_misfits, windows
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.foreign import Source
from k2_ohlcv.lake.trade_columns import field_ids_read, time_unit
from k2_ohlcv_tests import lakes, theirs
from k2_ohlcv_tests.support.bench import Bench
from k2_ohlcv_tests.support.trades import make_trade

AT = datetime(2024, 5, 17, 12, tzinfo=UTC)
HOUR = timeframe("1h")
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


def made(bench: Bench) -> Table:
    return theirs.create(bench.lake, COLUMNS, rows(SOME))


def read(bench: Bench, table: Table, **columns: str) -> list[Candle]:
    trades = Lake(bench.lake.catalog, Source(table.name(), tuple(columns.items()))).trades()
    snapshot = trades.metadata.current_snapshot_id
    assert snapshot is not None
    found = windows(bench.engine, trades, snapshot, HOUR, [HOUR.window(AT)])
    return [Candle(**row) for row in finish(found, HOUR)[0].to_dicts()]


def renamed(table: Table, *names: tuple[str, str]) -> None:
    """Change nothing but names, as their owner does: no snapshot is made by it."""
    for old, new in names:
        with table.refresh().update_schema() as update:
            update.rename_column(old, new)
    table.refresh()


def test_a_renamed_column_is_read_at_a_snapshot_that_knew_its_old_name(bench: Bench) -> None:
    table = made(bench)
    renamed(table, ("price", "px"), ("timestamp", "at"))
    assert read(bench, table, price="px", timestamp="at") == aggregate(SOME, HOUR)
    theirs.add(table, rows([make_trade("9", AT, 1, 1, market=("X", "A"))], price="px", timestamp="at"))
    more = [*SOME, make_trade("9", AT, 1, 1, market=("X", "A"))]
    assert read(bench, table, price="px", timestamp="at") == aggregate(more, HOUR)


SWAP = (("price", "other"), ("quantity", "price"), ("other", "quantity"))


def test_columns_that_exchanged_their_names_are_what_they_are_called_now(bench: Bench) -> None:
    """By name in the old schema, the price would still be the price."""
    table = made(bench)
    renamed(table, *SWAP)
    assert read(bench, table) == aggregate(SWAPPED, HOUR)
    assert read(bench, table, price="quantity", quantity="price") == aggregate(SOME, HOUR)


@pytest.mark.parametrize("local", [True, False])
def test_time_columns_that_exchanged_their_names(bench: Bench, local: bool) -> None:
    """An engine that plans files by the current name would rule out the ones that matter."""
    kind = TimestampType() if local else TimestamptzType()
    table = theirs.create(bench.lake, COLUMNS | {"timestamp": kind, "received": kind})
    for first in (0, 1):
        late = [row | {"received": AT + timedelta(days=3)} for row in rows(SOME[first::2])]
        plain: dict[str, object] = {"tzinfo": None} if local else {}
        stamps = ("timestamp", "received")
        theirs.add(table, [row | {n: row[n].replace(**plain) for n in stamps} for row in late])  # type: ignore[attr-defined]
    renamed(table, ("timestamp", "other"), ("received", "timestamp"), ("other", "received"))
    assert read(bench, table, timestamp="received") == aggregate(SOME, HOUR)
    assert read(bench, table) == []


def test_a_column_added_again_under_its_old_name_is_another_one(bench: Bench) -> None:
    """At the snapshot before, it does not exist: null in every row, and refused by name."""
    table = made(bench)
    with table.update_schema() as update:
        update.delete_column("price")
    with table.refresh().update_schema() as update:
        update.add_column("price", DoubleType())
    table.refresh()
    with pytest.raises(ContractError, match=r"no values yet in the column price \(for price\).*next commit"):
        read(bench, table)
    theirs.add(table, rows(SOME))
    assert read(bench, table) == [], "no candle is made of it"
    trades = Lake(bench.lake.catalog, Source(table.name())).trades()
    named = describe_misfits(
        bench.engine, trades, trades.metadata.current_snapshot_id or 0, [HOUR.window(AT)]
    )
    assert "price=None" in named


def test_a_renamed_column_of_our_own_table_is_found(bench: Bench) -> None:
    """Exchange and symbol are of one type: only their ids tell which is which at an older snapshot."""
    table = lakes.add_trades(bench.lake, SOME)
    renamed(table, ("exchange", "other"), ("symbol", "exchange"), ("other", "symbol"))
    with table.update_schema() as update:
        update.move_before("exchange", "symbol")
    trades, other = bench.lake.trades(), [replace(t, exchange="A", symbol="X") for t in SOME]
    snapshot = trades.metadata.current_snapshot_id
    assert snapshot is not None
    assert field_ids_read(trades)["exchange"] == 2
    found = windows(bench.engine, trades, snapshot, HOUR, [HOUR.window(AT)])
    assert [Candle(**row) for row in finish(found, HOUR)[0].to_dicts()] == aggregate(other, HOUR)


def test_what_is_read_can_be_told(lake: Lake) -> None:
    """For whoever remembers of what candles were made."""
    ours = lake.trades_to_write()
    names = ["exchange", "symbol", "trade_id", "timestamp", "price", "quantity"]
    assert field_ids_read(ours) == {name: i for i, name in enumerate(names, start=1)}
    assert time_unit(ours) == "zoned"
    table = theirs.create(lake, COLUMNS | {"timestamp": LongType()})
    found = Lake(lake.catalog, Source(table.name(), (("trade_id", ""),))).trades()
    assert field_ids_read(found) == {n: i for i, n in enumerate(names, start=1) if n != "trade_id"}
    assert time_unit(found) == "micros"


def add_file(table: Table, names: list[str], some: list[Trade] = SOME) -> None:
    """Add a file as it is, without field ids, its columns under these names."""
    path = f"{table.location()}/data/added-{len(table.snapshots())}.parquet"
    found = theirs.arrow(table, rows(some)).rename_columns(names)
    bare = pa.Table.from_arrays(found.columns, names=names)
    with table.io.new_output(path).create() as stream:
        pq.write_table(bare, stream)
    table.add_files([path])
    table.refresh()


def test_files_without_field_ids_are_read_by_name(bench: Bench) -> None:
    table = theirs.create(bench.lake, COLUMNS)
    add_file(table, list(COLUMNS))
    assert read(bench, table) == aggregate(SOME, HOUR)


@pytest.mark.parametrize("how", ["mapping", "renamed"])
def test_files_added_under_other_names_are_read_so_or_refused(bench: Bench, how: str) -> None:
    """Spark goes by the table's name mapping. Sail does not, and would take prices for quantities."""
    table = theirs.create(bench.lake, COLUMNS)
    add_file(table, list(COLUMNS))
    if how == "mapping":
        mapping = table.properties["schema.name-mapping.default"]
        swapped = mapping.replace("price", "?").replace("quantity", "price").replace("?", "quantity")
        table.transaction().set_properties({"schema.name-mapping.default": swapped}).commit_transaction()
    else:
        renamed(table, *SWAP)
    wanted: Callable[[], list[Candle]] = lambda: read(bench, table.refresh())  # noqa: E731 - called twice
    if bench.engine.embedded:
        with pytest.raises(ContractError, match=r"without field ids.*rewrite_data_files"):
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


def test_a_swapped_name_that_no_file_depends_on_is_no_harm(sail: Bench) -> None:
    """Files that have field ids need no mapping."""
    table = made(sail)
    mapping = '[{"names": ["quantity"], "field-id": 5}, {"names": ["price"], "field-id": 6}]'
    table.transaction().set_properties({"schema.name-mapping.default": mapping}).commit_transaction()
    assert read(sail, table.refresh()) == aggregate(SOME, HOUR)


def test_a_window_of_all_times_can_be_asked_for(sail: Bench) -> None:
    table = made(sail)
    trades = Lake(sail.lake.catalog, Source(table.name())).trades()
    snapshot = trades.metadata.current_snapshot_id
    assert snapshot is not None
    ever = Interval(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
    assert windows(sail.engine, trades, snapshot, HOUR, [ever]).num_rows == 1
