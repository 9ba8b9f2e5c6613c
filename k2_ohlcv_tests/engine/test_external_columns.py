"""Columns of external tables are read by field id, whatever their name was at a snapshot."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import Table
from pyiceberg.types import DoubleType, LongType, TimestampType, TimestamptzType

from k2_ohlcv.domain.candle import Candle, Trade, aggregate
from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine.rollup import compute_windows
from k2_ohlcv.engine.trades_reader import describe_invalid_rows
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.trade_columns import read_field_ids, trades_time_unit
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.external_tables import COLUMNS
from k2_ohlcv_tests.support.table_history import current_snapshot_id
from k2_ohlcv_tests.support.trades import make_trade
from k2_ohlcv_tests.support.windows import compute_candles

AT = datetime(2024, 5, 17, 12, tzinfo=UTC)
HOUR = find_timeframe("1h")
#: Trades whose prices and quantities cannot be mistaken for each other.
TRADES = [make_trade(n, AT + timedelta(seconds=n), 100 + n, n + 1, market=("X", "A")) for n in range(5)]
#: The same trades, read by an engine that takes prices for quantities.
SWAPPED = [replace(t, price=t.quantity, quantity=t.price) for t in TRADES]


def rows(trades: list[Trade], **names: str) -> list[dict[str, object]]:
    """Trades as rows of a table in which some columns have other names."""
    plain = [vars(t) | {"trade_id": int(t.trade_id)} for t in trades]
    return [
        {names.get(k, k): float(v) if isinstance(v, Decimal) else v for k, v in row.items()} for row in plain
    ]


def create_table(each_engine: EngineLake) -> Table:
    return external_tables.create_table(each_engine.lake, COLUMNS, rows(TRADES))


def read(each_engine: EngineLake, table: Table, **columns: str) -> list[Candle]:
    config = ExternalTradesConfig(table.name(), tuple(columns.items()))
    trades = Lake(each_engine.lake.catalog, config).trades()
    return compute_candles(each_engine.engine, trades, HOUR, [HOUR.window(AT)])


def rename_columns(table: Table, *names: tuple[str, str]) -> None:
    """Change only names, as the owner of a table does. No snapshot is created."""
    for old, new in names:
        with table.refresh().update_schema() as update:
            update.rename_column(old, new)
    table.refresh()


def test_a_renamed_column_is_read_at_a_snapshot_before_the_renaming(each_engine: EngineLake) -> None:
    table = create_table(each_engine)
    rename_columns(table, ("price", "px"), ("timestamp", "at"))
    assert read(each_engine, table, price="px", timestamp="at") == aggregate(TRADES, HOUR)
    external_tables.add_rows(
        table, rows([make_trade("9", AT, 1, 1, market=("X", "A"))], price="px", timestamp="at")
    )
    more = [*TRADES, make_trade("9", AT, 1, 1, market=("X", "A"))]
    assert read(each_engine, table, price="px", timestamp="at") == aggregate(more, HOUR)


SWAP = (("price", "other"), ("quantity", "price"), ("other", "quantity"))


def test_columns_that_exchanged_their_names_are_read_by_their_present_names(each_engine: EngineLake) -> None:
    """The names in the schema of the snapshot would give the old columns."""
    table = create_table(each_engine)
    rename_columns(table, *SWAP)
    assert read(each_engine, table) == aggregate(SWAPPED, HOUR)
    assert read(each_engine, table, price="quantity", quantity="price") == aggregate(TRADES, HOUR)


@pytest.mark.parametrize("local", [True, False])
def test_time_columns_that_exchanged_their_names_are_read_by_their_present_names(
    each_engine: EngineLake, local: bool
) -> None:
    """An engine that plans files by the name in the old schema would skip the files with the rows."""
    kind = TimestampType() if local else TimestamptzType()
    table = external_tables.create_table(each_engine.lake, COLUMNS | {"timestamp": kind, "received": kind})
    for first in (0, 1):
        late = [row | {"received": AT + timedelta(days=3)} for row in rows(TRADES[first::2])]
        plain: dict[str, object] = {"tzinfo": None} if local else {}
        stamps = ("timestamp", "received")
        external_tables.add_rows(table, [row | {n: row[n].replace(**plain) for n in stamps} for row in late])  # type: ignore[attr-defined]
    rename_columns(table, ("timestamp", "other"), ("received", "timestamp"), ("other", "received"))
    assert read(each_engine, table, timestamp="received") == aggregate(TRADES, HOUR)
    assert read(each_engine, table) == []


def test_a_column_added_again_under_its_old_name_is_another_one(each_engine: EngineLake) -> None:
    """At the earlier snapshot the new column has no values. The table is refused with its name."""
    table = create_table(each_engine)
    with table.update_schema() as update:
        update.delete_column("price")
    with table.refresh().update_schema() as update:
        update.add_column("price", DoubleType())
    table.refresh()
    with pytest.raises(TableSpecError, match=r"no values yet in the column price \(for price\).*next commit"):
        read(each_engine, table)
    external_tables.add_rows(table, rows(TRADES))
    assert read(each_engine, table) == [], "no candle is made of it"
    trades = Lake(each_engine.lake.catalog, ExternalTradesConfig(table.name())).trades()
    description = describe_invalid_rows(
        each_engine.engine, trades, current_snapshot_id(trades), [HOUR.window(AT)]
    )
    assert "price=None" in description


def test_a_renamed_column_of_the_projects_own_table_is_read_by_id(each_engine: EngineLake) -> None:
    """Exchange and symbol have one type. At an older snapshot only their ids distinguish them."""
    table = lakes.add_trades(each_engine.lake, TRADES)
    rename_columns(table, ("exchange", "other"), ("symbol", "exchange"), ("other", "symbol"))
    with table.update_schema() as update:
        update.move_before("exchange", "symbol")
    trades, exchanged = each_engine.lake.trades(), [replace(t, exchange="A", symbol="X") for t in TRADES]
    assert read_field_ids(trades)["exchange"] == 2
    computed = compute_candles(each_engine.engine, trades, HOUR, [HOUR.window(AT)])
    assert computed == aggregate(exchanged, HOUR)


def test_a_table_gives_the_field_ids_and_time_unit_that_are_read(lake: Lake) -> None:
    """Candle tables store them, to notice that the columns of the trades table changed."""
    own = lake.writable_trades()
    names = ["exchange", "symbol", "trade_id", "timestamp", "price", "quantity"]
    assert read_field_ids(own) == {name: i for i, name in enumerate(names, start=1)}
    assert trades_time_unit(own) == "zoned"
    table = external_tables.create_table(lake, COLUMNS | {"timestamp": LongType()})
    external = Lake(lake.catalog, ExternalTradesConfig(table.name(), (("trade_id", ""),))).trades()
    assert read_field_ids(external) == {n: i for i, n in enumerate(names, start=1) if n != "trade_id"}
    assert trades_time_unit(external) == "micros"


def add_file(table: Table, names: list[str]) -> None:
    """Add a file without field ids, whose columns have these names."""
    path = f"{table.location()}/data/added-{len(table.snapshots())}.parquet"
    columns = external_tables.to_arrow(table, rows(TRADES)).columns
    bare = pa.Table.from_arrays(columns, names=names)
    with table.io.new_output(path).create() as stream:
        pq.write_table(bare, stream)
    table.add_files([path])
    table.refresh()


def test_files_without_field_ids_are_read_by_name(each_engine: EngineLake) -> None:
    table = external_tables.create_table(each_engine.lake, COLUMNS)
    add_file(table, list(COLUMNS))
    assert read(each_engine, table) == aggregate(TRADES, HOUR)


@pytest.mark.parametrize("how", ["mapping", "renamed"])
def test_files_with_other_column_names_are_read_by_the_name_mapping_or_refused(
    each_engine: EngineLake, how: str
) -> None:
    """Spark uses the table's name mapping. Sail would take prices for quantities, so it is refused."""
    table = external_tables.create_table(each_engine.lake, COLUMNS)
    add_file(table, list(COLUMNS))
    if how == "mapping":
        mapping = table.properties["schema.name-mapping.default"]
        swapped = mapping.replace("price", "?").replace("quantity", "price").replace("?", "quantity")
        table.transaction().set_properties({"schema.name-mapping.default": swapped}).commit_transaction()
    else:
        rename_columns(table, *SWAP)
    wanted: Callable[[], list[Candle]] = lambda: read(each_engine, table.refresh())  # noqa: E731 - called twice
    if each_engine.engine.embedded:
        with pytest.raises(TableSpecError, match=r"without field ids.*rewrite_data_files"):
            wanted()
    else:
        by_name = [Trade(*row.values()) for row in _read_by_name(table)]
        assert wanted() == aggregate(by_name, HOUR)


def _read_by_name(table: Table) -> list[dict[str, Any]]:
    rows = table.refresh().scan().to_arrow().select(list(COLUMNS)).to_pylist()
    return [
        r | {"trade_id": str(r["trade_id"])} | {n: Decimal(r[n]) for n in ("price", "quantity")} for r in rows
    ]


def test_a_swapped_name_mapping_that_no_file_needs_is_ignored(sail: EngineLake) -> None:
    """Files that have field ids need no mapping."""
    table = create_table(sail)
    mapping = '[{"names": ["quantity"], "field-id": 5}, {"names": ["price"], "field-id": 6}]'
    table.transaction().set_properties({"schema.name-mapping.default": mapping}).commit_transaction()
    assert read(sail, table.refresh()) == aggregate(TRADES, HOUR)


def test_windows_of_all_times_can_be_computed(sail: EngineLake) -> None:
    table = create_table(sail)
    trades = Lake(sail.lake.catalog, ExternalTradesConfig(table.name())).trades()
    all_time = Interval(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
    assert compute_windows(sail.engine, trades, current_snapshot_id(trades), HOUR, [all_time]).num_rows == 1
