"""Which windows differ between two snapshots of trades with row-level deletes, without an engine."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _OverwriteFiles
from pyiceberg.transforms import DayTransform
from pyiceberg.typedef import Record

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY, MICROSECOND, Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY, TableCommit, commit_change
from k2_ohlcv.lake.metadata.dirty_windows import find_dirty_windows
from k2_ohlcv.lake.metadata.snapshot_diff import SnapshotDiff, diff_snapshots
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.external_trades import open_external_trades
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
LENGTH = timedelta(minutes=1)


def trade(minute: int) -> Trade:
    """A trade some minutes after noon."""
    return make_trade(minute, AT + minute * LENGTH, market=("X", "Y"))


def add(lake: Lake, *minutes: int) -> DataFile:
    """Append trades of one day in one file. Returns the file."""
    known = {file.file_path for file in data_files(lake.writable_trades())}
    table = lakes.add_trades(lake, map(trade, minutes))
    (file,) = (file for file in data_files(table) if file.file_path not in known)
    return file


def data_files(table: Table) -> list[DataFile]:
    return [task.file for task in table.refresh().scan().plan_files()]


def span(first: int, last: int) -> Interval:
    """The span of a file, from its first to its last trade."""
    return Interval(AT + first * LENGTH, AT + last * LENGTH + MICROSECOND)


def diff_since(lake: Lake, before: int | None) -> SnapshotDiff:
    trades = lake.trades()
    return diff_snapshots(trades, before, table_history.current_snapshot_id(trades))


def list_dirty(lake: Lake, before: int | None) -> list[Interval]:
    """The dirty windows since a snapshot."""
    diff = diff_since(lake, before)
    assert diff.reason is None
    return find_dirty_windows(lake.trades(), diff, MINUTE).selection.cover(MINUTE)


def windows(first: int, last: int) -> list[Interval]:
    """The windows of a span, without a gap."""
    return [Interval(AT + first * LENGTH, AT + (last + 1) * LENGTH)]


def test_a_delete_that_names_a_file_makes_that_file_dirty(lake: Lake) -> None:
    """Other files of the same day are not dirty, nor are their windows."""
    add(lake, 0, 3)
    named = add(lake, 10, 13)
    before = lake.trades().metadata.current_snapshot_id
    external_tables.delete_positions(
        lake.trades(), [(named.file_path, 0)], partition=named.partition, has_bounds=True
    )
    assert diff_since(lake, before) == SnapshotDiff(deleted_spans=(span(10, 13),))
    assert list_dirty(lake, before) == windows(10, 13)


def test_a_delete_that_names_a_file_of_neither_snapshot_changes_nothing(lake: Lake) -> None:
    """The file was removed in between, so its other rows are found by the file itself."""
    kept = add(lake, 0, 3)
    before = lake.trades().metadata.current_snapshot_id
    position = [(f"{kept.file_path}-gone", 0)]
    external_tables.delete_positions(lake.trades(), position, partition=kept.partition, has_bounds=True)
    assert diff_since(lake, before) == SnapshotDiff()


def test_a_delete_that_names_no_file_makes_its_partition_dirty(lake: Lake) -> None:
    """Every data file of the partition may have lost rows. Files of other days have not."""
    deleted = add(lake, 0, 3)
    add(lake, 10, 13)
    add(lake, 1440, 1443)
    before = lake.trades().metadata.current_snapshot_id
    external_tables.delete_positions(lake.trades(), [(deleted.file_path, 0)], partition=deleted.partition)
    assert diff_since(lake, before).bounds == [span(0, 3), span(10, 13)]
    removed_again = lake.trades().metadata.current_snapshot_id
    assert before is not None
    table_history.roll_back(lake.writable_trades(), before)
    assert diff_since(lake, removed_again).bounds == [span(0, 3), span(10, 13)]


@pytest.mark.parametrize("is_old_spec", [True, False])
def test_deletes_outside_the_current_partitions_make_everything_dirty(lake: Lake, is_old_spec: bool) -> None:
    """Metadata does not say which rows a delete of another or of no partitioning deletes."""
    table = external_tables.create_table(lake, external_tables.EXACT_COLUMNS, [vars(trade(0))])
    unpartitioned: PartitionSpec = table.spec()
    if is_old_spec:
        with table.update_spec() as update:
            update.add_field("timestamp", DayTransform(), "day")
    before = table_history.current_snapshot_id(table)
    external_tables.delete_equal(table, ["trade_id"], [("0",)], partition=Record(), spec=unpartitioned)
    trades = open_external_trades(lake, table)
    diff = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    assert diff.reason == "delete files were added or removed, and metadata does not name their rows"


def replace_files(table: Table, removed: Sequence[DataFile], added: Sequence[DataFile]) -> None:
    """Remove and add data files in one commit, by their entries alone."""
    with table.transaction() as transaction:
        producer = _OverwriteFiles(Operation.OVERWRITE, transaction, table.io)
        for file in removed:
            producer.delete_data_file(file)
        for file in added:
            producer.append_data_file(file)
        producer.commit()
    table.refresh()


def test_a_file_added_again_escapes_an_older_delete(lake: Lake) -> None:
    """The same file has rows that the delete removed before, and again after a rollback."""
    file = add(lake, 0, 3)
    table = lake.writable_trades()
    external_tables.delete_positions(table, [(file.file_path, 0)], partition=file.partition)
    deleted = table_history.current_snapshot_id(table.refresh())
    replace_files(table, [file], [])
    replace_files(table, [], [file])
    restored = table_history.current_snapshot_id(table)
    assert list_dirty(lake, deleted) == windows(0, 3)
    table_history.roll_back(table, deleted)
    assert list_dirty(lake, restored) == windows(0, 3)


def test_deletes_of_other_days_do_not_hide_new_trades(lake: Lake) -> None:
    """Deleted spans and changed files are both dirty."""
    file = add(lake, 0, 3)
    before = lake.trades().metadata.current_snapshot_id
    external_tables.delete_positions(lake.trades(), [(file.file_path, 0)], partition=file.partition)
    add(lake, 1440, 1443)
    assert list_dirty(lake, before) == [
        *windows(0, 3),
        MINUTE.window(AT + DAY),
        MINUTE.window(AT + DAY + 3 * LENGTH),
    ]


def test_a_compaction_that_applies_deletes_changes_rows(lake: Lake) -> None:
    """Its file lacks the deleted row, and no delete file is left to show it."""
    file = add(lake, 0, 3, 9)
    before = lake.trades().metadata.current_snapshot_id
    external_tables.delete_positions(lake.trades(), [(file.file_path, 1)], partition=file.partition)
    table = lake.writable_trades()
    rows = table.scan().to_arrow()
    commit_change(table, TableCommit(removed_files=(file,), rows=rows, operation=Operation.REPLACE))
    assert diff_since(lake, before).deleted_spans == ()
    assert list_dirty(lake, before) == windows(3, 3)


def test_a_file_added_again_after_its_drop_is_removed_later(lake: Lake) -> None:
    """The drop by retention is older than both snapshots, and does not hide the later removal."""
    file = add(lake, 0, 3)
    add(lake, 1440)
    table = lake.writable_trades()
    summary = {RETENTION_SUMMARY_KEY: "of retention"}
    table = commit_change(table, TableCommit(removed_files=(file,), summary=summary))
    replace_files(table, [], [file])
    before = table_history.current_snapshot_id(table)
    replace_files(table, [file], [])
    assert list_dirty(lake, before) == [MINUTE.window(AT), MINUTE.window(AT + 3 * LENGTH)]
