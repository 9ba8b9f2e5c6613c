"""Refresh beside row-level deletes: what is live decides, not what data files hold."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _OverwriteFiles
from pyiceberg.typedef import Record
from pyiceberg.types import LongType

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.files import LiveFile, live_files
from k2_ohlcv.lake.metadata.row_deletes import RowDeletes
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade

MINUTE = find_timeframe("1m")
SOME = [make_trade(i, AT + i * timedelta(minutes=1)) for i in range(6)]
#: The trade that row-level deletes take away.
DEAD = SOME[2]
REST = [t for t in SOME if t != DEAD]
Delete = Callable[[Table, LiveFile], None]


def by_position(table: Table, file: LiveFile) -> None:
    """The path of the file stands in the delete file alone, not in its bounds."""
    ids = lakes.read_data_file(file.path)["trade_id"].to_list()
    external_tables.delete_positions(
        table, [(file.path, ids.index(DEAD.trade_id))], partition=file.file.partition
    )


def by_value(table: Table, file: LiveFile) -> None:
    external_tables.delete_equal(table, ["trade_id"], [(DEAD.trade_id,)], partition=file.file.partition)


def files(table: Table) -> list[LiveFile]:
    """The live files, with what only a snapshot says of them."""
    return live_files(table.refresh(), table_history.current_snapshot_id(table))


def data_file(table: Table) -> LiveFile:
    (file,) = (f for f in files(table) if not f.is_delete)
    return file


def raw(table: Table, file: LiveFile) -> pl.DataFrame:
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    return pl.DataFrame(scan.to_table([FileScanTask(file.file)]))


def replace(table: Table, gone: list[LiveFile], rows: pl.DataFrame | None, again: list[DataFile]) -> None:
    """One commit that removes files, writes rows as a new one, and adds known files again."""
    with table.transaction() as transaction:
        producer = _OverwriteFiles(Operation.OVERWRITE, transaction, table.io)
        for file in gone:
            producer.delete_data_file(file.file)
        if rows is not None:
            added = rows.to_arrow().cast(lakes.to_trades_rows(table, []).schema)
            for one in _dataframe_to_data_files(table.metadata, added, table.io):
                producer.append_data_file(one)
        for known in again:
            producer.append_data_file(known)
        producer.commit()
    table.refresh()


def started(each_engine: EngineLake, delete: Delete | None) -> Table:
    table = lakes.add_trades(each_engine.lake, SOME)
    if delete is not None:
        delete(table, data_file(table))
    each_engine.refresh(MINUTE)
    each_engine.assert_equal_to_trades(REST if delete else SOME, MINUTE)
    return table.refresh()


def check(each_engine: EngineLake, wanted: list[Trade]) -> None:
    each_engine.refresh(MINUTE)
    each_engine.assert_equal_to_trades(wanted, MINUTE)


@pytest.mark.parametrize("delete", [by_position, by_value])
def test_a_file_overwritten_with_all_its_rows_has_its_deleted_ones_again(
    each_engine: EngineLake, delete: Delete
) -> None:
    """Raw, the two files are equal; the row that was deleted from one is live in the other."""
    table = started(each_engine, delete)
    file = data_file(table)
    replace(table, [file], raw(table, file), [])
    check(each_engine, SOME)


@pytest.mark.parametrize("delete", [by_position, by_value])
def test_rows_deleted_in_a_file_that_came_are_missed(each_engine: EngineLake, delete: Delete) -> None:
    """The other way round: equal files, and the later one has a row-level delete."""
    table = started(each_engine, None)
    file = data_file(table)
    replace(table, [file], raw(table, file), [])
    delete(table, data_file(table))
    check(each_engine, REST)


@pytest.mark.parametrize("delete", [by_position, by_value])
def test_a_file_added_again_is_younger_than_its_deletes(sail: EngineLake, delete: Delete) -> None:
    """The same path with a new sequence number, and a delete file that stays as it was."""
    table = started(sail, delete)
    file = data_file(table)
    replace(table, [file], None, [])
    check(sail, [])
    replace(table, [], None, [file.file])
    check(sail, SOME)


@pytest.mark.parametrize("delete", [by_position, by_value])
def test_a_file_taken_out_and_added_again_between_two_refreshes(sail: EngineLake, delete: Delete) -> None:
    table = started(sail, delete)
    file = data_file(table)
    replace(table, [file], None, [])
    replace(table, [], None, [file.file])
    check(sail, SOME)


@pytest.mark.parametrize("delete", [by_position, by_value])
def test_a_rollback_over_row_level_deletes(sail: EngineLake, delete: Delete) -> None:
    """Delete files that were there are gone, or are back; no data file differs."""
    table = started(sail, None)
    clean = table_history.current_snapshot_id(table)
    delete(table, data_file(table))
    dirty = table_history.current_snapshot_id(table.refresh())
    check(sail, REST)
    table_history.roll_back(table, clean)
    check(sail, SOME)
    with table.manage_snapshots() as manage:
        manage.set_current_snapshot(dirty)
    check(sail, REST)


def test_a_compaction_before_row_level_deletes_moves_rows_only(sail: EngineLake) -> None:
    """Files merged while nothing was deleted, and then a delete on the merged one: its window, no other."""
    table = lakes.add_trades(sail.lake, SOME[:3])
    lakes.add_trades(sail.lake, SOME[3:])
    sail.refresh(MINUTE)
    table.refresh()
    table_history.compact_files(table, list(table.scan().plan_files()))
    by_position(table.refresh(), data_file(table))
    check(sail, REST)


def _file(
    content: DataFileContent, path: str, spec: int, partition: Record | None = None, **more: Any
) -> DataFile:
    file = DataFile.from_args(
        content=content,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=partition or Record(1),
        record_count=1,
        file_size_in_bytes=1,
        **more,
    )
    file.spec_id = spec
    return file


@pytest.mark.parametrize(
    ("content", "named", "spec", "borne"),
    [
        # Deletes of sequence number 5, on data of number 4, 5 and 6.
        (DataFileContent.POSITION_DELETES, False, 1, [True, True, False]),
        (DataFileContent.POSITION_DELETES, True, 1, [True, True, False]),
        (DataFileContent.EQUALITY_DELETES, False, 1, [True, False, False]),
        (DataFileContent.EQUALITY_DELETES, False, 0, [True, False, False]),
    ],
)
def test_deletes_bear_on_their_scope_and_on_older_files(
    lake: Lake, content: DataFileContent, named: bool, spec: int, borne: list[bool]
) -> None:
    path = {2147483546: b"a"} if named else None
    delete = _file(content, "d", spec, lower_bounds=path, upper_bounds=path)
    deletes = RowDeletes.from_files(_two_specs(lake), [(delete, 5)])
    near, far = _file(DataFileContent.DATA, "a", 1), _file(DataFileContent.DATA, "b", 1, Record(2))
    assert [bool(deletes.deletes_for(near, number)) for number in (4, 5, 6)] == borne
    elsewhere = [bool(deletes.deletes_for(far, number)) for number in (4, 5, 6)]
    assert elsewhere == (borne if spec == 0 else [False] * 3)


def test_a_deletion_vector_bears_on_the_file_it_names(lake: Lake) -> None:
    vector = _file(DataFileContent.POSITION_DELETES, "v.puffin", 1)
    vector.referenced_data_file = "a"  # of format version 3
    deletes = RowDeletes.from_files(_two_specs(lake), [(vector, 5)])
    assert deletes.deletes_for(_file(DataFileContent.DATA, "a", 1, Record(9)), 5) == [vector]
    assert deletes.deletes_for(_file(DataFileContent.DATA, "b", 1), 5) == []


def _two_specs(lake: Lake) -> Table:
    """A table that was without partitions (spec 0) before it had some (spec 1)."""
    table = external_tables.create_table(lake, {"day": LongType()})
    with table.update_spec() as update:
        update.add_identity("day")
    return table.refresh()
