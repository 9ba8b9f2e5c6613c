"""Reading the files of candles: which files are read, and which rows are misplaced or deleted."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.candle_files import partition_files, read_candles, read_rows
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.delete_files import plan_scan_tasks
from k2_ohlcv.lake.metadata.files import LiveFile, file_partition
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
MIDNIGHT = datetime(2024, 2, 28, tzinfo=UTC)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
FIRST, SECOND, THIRD = (MINUTE.grain.partition(MIDNIGHT + day * DAY) for day in range(3))


def commit(lake: Lake, *moments: datetime) -> Table:
    """Commit a candle at each of these times. A commit writes one file per day."""
    trades = [make_trade(number, at) for number, at in enumerate(moments)]
    return lakes.commit_candles(lake.writable_candles(MINUTE), MINUTE, trades, NOW)


def minute(day: int, number: int) -> datetime:
    return MIDNIGHT + day * DAY + timedelta(minutes=number)


def window(day: int, number: int) -> Interval:
    return MINUTE.window(minute(day, number))


def read(table: Table, *intervals: Interval) -> list[tuple[datetime, str, bool]]:
    """The rows of the files that a read of intervals chooses: window start, partition and misplaced."""
    rows, _ = read_candles(table, MINUTE, intervals)
    return sorted(rows.select("window_start", "partition", "misplaced").rows())


def keys(*days: Interval) -> list[str]:
    return [MINUTE.grain.key(day) for day in days]


def test_rows_of_their_own_day_are_not_misplaced(lake: Lake) -> None:
    """The first and the last minute of a day lie in its partition. Files of other times are not read."""
    table = commit(lake, minute(0, 0), minute(0, 1439), minute(1, 0))
    (first, second) = keys(FIRST, SECOND)
    assert read(table, window(0, 7)) == [(minute(0, 0), first, False), (minute(0, 1439), first, False)]
    assert read(table, window(1, 0)) == [(minute(1, 0), second, False)]
    assert read(table, window(1, 1)) == []


@pytest.mark.parametrize("wrong", [SECOND, THIRD])
def test_a_misplaced_row_is_found_by_its_time_and_by_its_partition(lake: Lake, wrong: Interval) -> None:
    """A row of the first day is in the partition of another day."""
    table = commit(lake, minute(0, 5))
    table_history.add_to_wrong_day(table, wrong.start)
    table = lake.candles(MINUTE)
    right_key, wrong_key = keys(FIRST, wrong)
    rows = [(minute(0, 5), right_key, False), (minute(0, 5), wrong_key, True)]
    assert read(table, window(0, 5)) == rows
    assert read(table, Interval(wrong.start, wrong.start + MINUTE.length)) == rows[1:]


@pytest.mark.parametrize(("moment", "wrong"), [(minute(1, 0), FIRST), (minute(0, 1439), SECOND)])
def test_a_row_next_to_its_partition_is_misplaced(lake: Lake, moment: datetime, wrong: Interval) -> None:
    """A partition includes its start, and not its end."""
    table = commit(lake, moment)
    table_history.add_to_wrong_day(table, wrong.start)
    rows = read(lake.candles(MINUTE), wrong)
    assert (moment, *keys(wrong), True) in rows


def load_tasks(table: Table, days: Sequence[Interval]) -> tuple[list[LiveFile], list[FileScanTask]]:
    """The data files of some days by time, and their scan tasks."""
    files = sorted(partition_files(table, MINUTE, days), key=lambda file: file.span)
    return files, plan_scan_tasks(table, MINUTE, files)[0]


def test_rows_are_numbered_and_name_their_file(lake: Lake) -> None:
    """A commit removes files and rows by these numbers."""
    table = commit(lake, minute(0, 1), minute(0, 2), minute(1, 1), minute(2, 1))
    _, tasks = load_tasks(table, [FIRST, SECOND, THIRD])
    rows = read_rows(table, MINUTE, tasks, [0, 2], first_row=7)
    assert rows["row"].to_list() == [7, 8, 9]
    assert rows["task"].to_list() == [0, 0, 2]
    assert rows["window_start"].to_list() == [minute(0, 1), minute(0, 2), minute(2, 1)]


def test_deleted_rows_are_not_read(lake: Lake) -> None:
    """One of two files has a deleted row. Delete files are no data files."""
    table = commit(lake, minute(0, 1), minute(0, 2), minute(1, 1))
    (file, _), _ = load_tasks(table, [FIRST, SECOND])
    external_tables.delete_positions(table, [(file.path, 0)], partition=file.file.partition)
    table = lake.candles(MINUTE)
    files, tasks = load_tasks(table, [FIRST, SECOND])
    assert [file_partition(live.file, MINUTE.grain) for live in files] == [FIRST, SECOND]
    rows = read_rows(table, MINUTE, tasks, [0, 1])
    assert rows.select("window_start", "task").rows() == [(minute(0, 2), 0), (minute(1, 1), 1)]
    assert not rows["misplaced"].any()
