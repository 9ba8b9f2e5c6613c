"""Refresh of trades tables with row-level deletes: live rows decide, not the rows in data files."""

from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _OverwriteFiles

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.metadata.files import LiveFile, live_files
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade

MINUTE = find_timeframe("1m")
TRADES = [make_trade(i, AT + i * timedelta(minutes=1)) for i in range(6)]
#: The trade that row-level deletes remove.
DELETED = TRADES[2]
REST = [t for t in TRADES if t != DELETED]
Delete = Callable[[Table, LiveFile], None]


def by_position(table: Table, file: LiveFile) -> None:
    """Delete by position. The delete file has the data file's path in its rows, not in its bounds."""
    ids = lakes.read_data_file(file.path)["trade_id"].to_list()
    external_tables.delete_positions(
        table, [(file.path, ids.index(DELETED.trade_id))], partition=file.file.partition
    )


def by_value(table: Table, file: LiveFile) -> None:
    external_tables.delete_equal(table, ["trade_id"], [(DELETED.trade_id,)], partition=file.file.partition)


both_deletes = pytest.mark.parametrize("delete", [by_position, by_value])


def list_live_files(table: Table) -> list[LiveFile]:
    return live_files(table.refresh(), table_history.current_snapshot_id(table))


def only_data_file(table: Table) -> LiveFile:
    (file,) = (f for f in list_live_files(table) if not f.is_delete)
    return file


def read_all_rows(table: Table, file: LiveFile) -> pl.DataFrame:
    """The rows of a data file, deleted ones included."""
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    return pl.DataFrame(scan.to_table([FileScanTask(file.file)]))


def replace(
    table: Table, removed: list[LiveFile], rows: pl.DataFrame | None, added_again: list[DataFile]
) -> None:
    """One commit that removes files, writes rows as a new file, and adds known files again."""
    with table.transaction() as transaction:
        producer = _OverwriteFiles(Operation.OVERWRITE, transaction, table.io)
        for file in removed:
            producer.delete_data_file(file.file)
        if rows is not None:
            added = rows.to_arrow().cast(lakes.to_trades_rows(table, []).schema)
            for new_file in _dataframe_to_data_files(table.metadata, added, table.io):
                producer.append_data_file(new_file)
        for known_file in added_again:
            producer.append_data_file(known_file)
        producer.commit()
    table.refresh()


def start_lake(each_engine: EngineLake, delete: Delete | None) -> Table:
    """Trades, optional row-level deletes, and their candles."""
    table = lakes.add_trades(each_engine.lake, TRADES)
    if delete is not None:
        delete(table, only_data_file(table))
    each_engine.refresh(MINUTE)
    each_engine.assert_equal_to_trades(REST if delete else TRADES, MINUTE)
    return table.refresh()


def check(each_engine: EngineLake, trades: list[Trade]) -> None:
    each_engine.refresh(MINUTE)
    each_engine.assert_equal_to_trades(trades, MINUTE)


@both_deletes
def test_an_overwrite_may_restore_a_deleted_row(each_engine: EngineLake, delete: Delete) -> None:
    """Both data files have equal rows. The row that was deleted in one is live in the other."""
    table = start_lake(each_engine, delete)
    file = only_data_file(table)
    replace(table, [file], read_all_rows(table, file), [])
    check(each_engine, TRADES)


@both_deletes
def test_a_row_deleted_in_a_new_file_is_found(each_engine: EngineLake, delete: Delete) -> None:
    """Both data files have equal rows, and the new one has a row-level delete."""
    table = start_lake(each_engine, None)
    file = only_data_file(table)
    replace(table, [file], read_all_rows(table, file), [])
    delete(table, only_data_file(table))
    check(each_engine, REST)


@both_deletes
def test_a_file_added_again_is_younger_than_its_deletes(sail: EngineLake, delete: Delete) -> None:
    """The same path has a new sequence number, and the delete file stays."""
    table = start_lake(sail, delete)
    file = only_data_file(table)
    replace(table, [file], None, [])
    check(sail, [])
    replace(table, [], None, [file.file])
    check(sail, TRADES)


@both_deletes
def test_a_file_taken_out_and_added_again_between_two_refreshes(sail: EngineLake, delete: Delete) -> None:
    """The older delete no longer applies, so the trade is live again."""
    table = start_lake(sail, delete)
    file = only_data_file(table)
    replace(table, [file], None, [])
    replace(table, [], None, [file.file])
    check(sail, TRADES)


@both_deletes
def test_a_rollback_over_row_level_deletes(sail: EngineLake, delete: Delete) -> None:
    """Only delete files differ between the snapshots, and candles follow them."""
    table = start_lake(sail, None)
    clean = table_history.current_snapshot_id(table)
    delete(table, only_data_file(table))
    dirty = table_history.current_snapshot_id(table.refresh())
    check(sail, REST)
    table_history.roll_back(table, clean)
    check(sail, TRADES)
    with table.manage_snapshots() as manage:
        manage.set_current_snapshot(dirty)
    check(sail, REST)


def test_a_compaction_before_row_level_deletes_moves_rows_only(sail: EngineLake) -> None:
    """Only the window of a delete on the merged file is dirty."""
    table = lakes.add_trades(sail.lake, TRADES[:3])
    lakes.add_trades(sail.lake, TRADES[3:])
    sail.refresh(MINUTE)
    table.refresh()
    table_history.compact_files(table, list(table.scan().plan_files()))
    by_position(table.refresh(), only_data_file(table))
    check(sail, REST)
