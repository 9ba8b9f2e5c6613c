"""The windows in which trades differ, found by reading changed files: which rows and columns count."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import MICROSECOND
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.dirty_windows import find_dirty_windows
from k2_ohlcv.lake.metadata.snapshot_diff import diff_snapshots
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.external_trades import open_external_lake
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
MARKET = ("X", "Y")
TRADES = [make_trade(i, AT + i * timedelta(minutes=1), 100, 2, market=MARKET) for i in range(3)]
#: The window of the second trade.
SECOND = AT + timedelta(minutes=1)


def find_selection(trades: Table, before: int) -> WindowSelection:
    """The dirty windows of 1m since a snapshot, found by reading all files in which it differs."""
    diff = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    found = find_dirty_windows(trades, diff, MINUTE)
    assert found.files_read == len(diff.removed_files) + len(diff.added_files)
    return found.selection


def change_second_trade(table: Table, column: str, value: pl.Expr) -> None:
    """Rewrite the only file of a table with another value in one row."""

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        is_second = pl.col("trade_id").cast(pl.String) == "1"
        changed = pl.when(is_second).then(value).otherwise(pl.col(column))
        return rows.with_columns(changed.cast(rows.schema[column]).alias(column))

    table_history.rewrite_files(table, list(table.scan().plan_files()), change)


VALUES = [
    ("price", pl.lit(101)),
    ("quantity", pl.lit(3)),
    ("trade_id", pl.lit("1000")),
]


@pytest.mark.parametrize(("column", "value"), VALUES)
def test_a_row_with_another_value_is_dirty(lake: Lake, column: str, value: pl.Expr) -> None:
    """Each of these columns changes a candle. The id decides the order of trades of one time."""
    table = lakes.add_trades(lake, TRADES)
    before = table_history.current_snapshot_id(table)
    change_second_trade(table, column, value)
    assert find_selection(lake.trades(), before).pairs.rows() == [(*MARKET, SECOND)]


@pytest.mark.parametrize(("column", "value"), VALUES)
def test_columns_of_an_external_table_are_known_by_their_config(
    lake: Lake, column: str, value: pl.Expr
) -> None:
    """The symbol is in a column of another name, and `symbol` has something else."""
    columns = {**external_tables.EXACT_COLUMNS, "pair": external_tables.EXACT_COLUMNS["symbol"]}
    rows = [{**vars(trade), "pair": trade.symbol, "symbol": "other"} for trade in TRADES]
    table = external_tables.create_table(lake, columns, rows)
    before = table_history.current_snapshot_id(table)
    change_second_trade(table, column, value)
    trades = open_external_lake(lake, table, symbol="pair").trades()
    assert find_selection(trades, before).pairs.rows() == [(*MARKET, SECOND)]


def test_each_of_several_added_files_is_read(lake: Lake) -> None:
    """The time spans of the files overlap, so their windows are not those of their bounds."""
    before = table_history.current_snapshot_id(lakes.add_trades(lake, TRADES[:1]))
    for numbers in ([1, 7], [3, 9], [5, 8]):
        late_trades = [make_trade(n, AT + n * timedelta(minutes=1), market=MARKET) for n in numbers]
        lakes.add_trades(lake, late_trades)
    starts = [start for *_, start in find_selection(lake.trades(), before).pairs.rows()]
    assert starts == [AT + n * timedelta(minutes=1) for n in (1, 3, 5, 7, 8, 9)]


def test_only_possible_times_are_dirty(lake: Lake) -> None:
    """One file has the first and the last possible time, and an earlier and a later one."""
    table = external_tables.create_table(lake, external_tables.EXACT_COLUMNS, map(vars, TRADES[:1]))
    before = table_history.current_snapshot_id(table)
    times = possible_trade_times()
    moments = (times.start - MICROSECOND, times.start, SECOND, times.last, times.end)
    external_tables.add_rows(table, [vars(make_trade(7, moment, market=MARKET)) for moment in moments])
    trades = open_external_lake(lake, table).trades()
    starts = [start for *_, start in find_selection(trades, before).pairs.rows()]
    assert starts == [times.start, SECOND, MINUTE.floor(times.last)]
