"""Which windows differ between two snapshots of trades, without an engine."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY, Interval, coalesce
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY, TableCommit, commit_change
from k2_ohlcv.lake.metadata.dirty_windows import find_dirty_windows
from k2_ohlcv.lake.metadata.snapshot_diff import (
    SnapshotDiff,
    diff_snapshots,
    trades_spans,
)
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
#: The window three minutes after noon.
MARK = AT + timedelta(minutes=3)


def trade(minute: float) -> Trade:
    """A trade some minutes after noon."""
    return make_trade(str(minute), AT + minute * timedelta(minutes=1), market=("X", "Y"))


def add(lake: Lake, *minutes: float) -> int:
    """Append trades, one file per day. Returns the snapshot."""
    return table_history.current_snapshot_id(lakes.add_trades(lake, map(trade, minutes)))


def windows(minutes: Iterable[float]) -> list[Interval]:
    return coalesce(MINUTE.window(trade(m).timestamp) for m in minutes)


def find_selection(lake: Lake, before: int) -> WindowSelection:
    """The dirty windows of 1m since a snapshot."""
    trades = lake.trades()
    diff = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    return find_dirty_windows(trades, diff, MINUTE).selection


def find_dirty(lake: Lake, before: int) -> tuple[list[Interval], int]:
    """The dirty windows since a snapshot, and how many files were read to find them."""
    trades = lake.trades()
    diff = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    assert diff.reason is None
    windows_read = find_dirty_windows(trades, diff, MINUTE)
    return windows_read.selection.cover(MINUTE), windows_read.files_read


def test_appended_files_are_read_for_their_windows(lake: Lake) -> None:
    """Only the windows of the new trades are dirty."""
    before = add(lake, 0, 1440)
    add(lake, 3, 9.5)
    assert find_dirty(lake, before) == (windows([3, 9.5]), 1)


def test_a_file_of_one_window_is_read_for_its_markets(lake: Lake) -> None:
    """Its bounds name the window, and its rows the market."""
    before = add(lake, 0)
    lakes.add_trades(lake, [trade(3), replace(trade(3.9), symbol="Z")])
    dirty = find_selection(lake, before)
    assert (dirty.intervals, dirty.pairs.rows()) == ((), [("X", "Y", MARK), ("X", "Z", MARK)])


def test_a_large_file_of_one_window_is_not_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have too many windows of single markets. Its window is dirty for all markets."""
    monkeypatch.setattr("k2_ohlcv.lake.metadata.dirty_windows.MAX_PAIRS", 1)
    before = add(lake, 0)
    add(lake, 3, 3.9)
    assert find_dirty(lake, before) == (windows([3]), 0)
    assert find_selection(lake, before).intervals == tuple(windows([3]))


def test_only_the_markets_of_changed_rows_are_dirty(lake: Lake) -> None:
    """A rewritten file has rows of two markets. One row of one market changed."""
    lakes.add_trades(lake, [trade(3), replace(trade(3.5), symbol="Z"), trade(9)])
    before = add(lake, 0)
    lake.writable_trades().delete("trade_id == '3.5'")
    dirty = find_selection(lake, before)
    assert (dirty.intervals, dirty.pairs.rows()) == ((), [("X", "Z", MARK)])


def test_open_intervals_are_dirty_for_all_markets(lake: Lake) -> None:
    """It is not known which markets differ in an open interval."""
    before = add(lake, 0)
    add(lake, 3, 9)
    trades = lake.trades()
    diff = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    dirty = find_dirty_windows(trades, diff, MINUTE, windows([9, 20])).selection
    assert (dirty.intervals, dirty.pairs.rows()) == (tuple(windows([9, 20])), [("X", "Y", MARK)])


def test_a_rewritten_file_is_compared_row_by_row(lake: Lake) -> None:
    """One row changed. Only its window is dirty, although the whole file is new."""
    before = add(lake, 0, 3, 9)
    table = lake.writable_trades()
    table.delete("trade_id == '3'")
    assert find_dirty(lake, before) == (windows([3]), 2)


def test_a_repeated_row_makes_its_window_dirty(lake: Lake) -> None:
    """Rows are counted: a file with one of its rows twice is not equal."""
    before = add(lake, 0, 3, 9)
    table = lake.writable_trades()
    table_history.rewrite_files(
        table, list(table.scan().plan_files()), lambda rows: rows.vstack(rows.slice(1, 1))
    )
    assert find_dirty(lake, before) == (windows([3]), 2)


def test_a_removed_file_is_read_for_its_windows(lake: Lake) -> None:
    """The file still exists in the store."""
    before = add(lake, 0, 1440, 1443)
    table = lake.writable_trades()
    table.delete(f"timestamp >= '{(AT + timedelta(hours=12)).isoformat()}'")
    assert find_dirty(lake, before) == (windows([1440, 1443]), 1)


@pytest.mark.parametrize("error", [FileNotFoundError, ValueError])
def test_an_unreadable_file_counts_with_its_bounds(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Every window between its first and last trade is dirty. PyIceberg has a ValueError for columns."""
    before = add(lake, 0)
    add(lake, 3, 9.5)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("k2_ohlcv.lake.metadata.dirty_windows.ArrowScan.to_table", fail)
    assert find_dirty(lake, before) == ([Interval(windows([3])[0].start, windows([9])[0].end)], 0)


@pytest.mark.parametrize(
    ("name", "limit", "read"),
    [("MAX_ROWS", 4, 2), ("MAX_ROWS", 3, 1), ("MAX_FILES", 2, 2), ("MAX_FILES", 1, 1)],
)
def test_the_number_of_read_files_is_bounded(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, read: int
) -> None:
    """Beyond a number of rows or files, the remaining files count with their bounds."""
    monkeypatch.setattr(f"k2_ohlcv.lake.metadata.dirty_windows.{name}", limit)
    before = add(lake, 0)
    add(lake, 3, 9)
    add(lake, 1443, 1449)
    windows_read, files = find_dirty(lake, before)
    assert files == read
    assert len(windows_read) == 2 * read + (2 - read)


def test_a_missing_snapshot_makes_every_window_dirty(lake: Lake) -> None:
    """The reason says whether there is no watermark, or an expired one."""
    after = add(lake, 0)
    trades = lake.trades()
    assert diff_snapshots(trades, None, after).reason == "the table has no watermark yet"
    assert diff_snapshots(trades, after, after) == SnapshotDiff()
    assert "1, has expired" in (diff_snapshots(trades, 1, after).reason or "")


def test_trades_lie_within_the_bounds_of_their_files(lake: Lake) -> None:
    """The spans come from metadata and include the last microsecond."""
    assert trades_spans(lake.writable_trades(), None) == []
    snapshot = add(lake, 0, 3, 1440)
    micro = timedelta(microseconds=1)
    first = Interval(trade(0).timestamp, trade(3).timestamp + micro)
    assert trades_spans(lake.trades(), snapshot) == [first, Interval(AT + DAY, AT + DAY + micro)]


def count_changed_files(lake: Lake, before: int) -> tuple[int, int]:
    trades = lake.trades()
    diff = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    return len(diff.removed_files), len(diff.added_files)


def test_compacted_files_are_not_changed_files(lake: Lake) -> None:
    """Files of the watermark are rewritten. Newer files are found by their first data file."""
    add(lake, 0, 3)
    before = add(lake, 9)
    table = lake.writable_trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    assert count_changed_files(lake, before) == (0, 0)
    add(lake, 20, 23)
    table = lake.writable_trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    assert count_changed_files(lake, before) == (0, 1)
    assert find_dirty(lake, before) == (windows([20, 23]), 1)


def test_only_drops_by_retention_are_no_changes(lake: Lake) -> None:
    """Files that another commit removed count as removed."""
    before = add(lake, 0, 3, 1440, 1443)
    for day, summary in ((AT, {RETENTION_SUMMARY_KEY: "of retention"}), (AT + DAY, {})):
        table = lake.writable_trades()
        files = [t.file for t in table.scan().plan_files() if t.file.partition[0] == Grain.DAY.ordinal(day)]
        commit_change(table, TableCommit(removed_files=tuple(files), summary=summary))
    assert count_changed_files(lake, before) == (1, 0)
    assert find_dirty(lake, before) == (windows([1440, 1443]), 1)


def test_a_rollback_removes_files(lake: Lake) -> None:
    """The earlier snapshot is no ancestor of the current one, and their files are still compared."""
    first = add(lake, 0, 3)
    before = add(lake, 9, 12)
    table_history.roll_back(lake.writable_trades(), first)
    assert count_changed_files(lake, before) == (1, 0)
    assert find_dirty(lake, before) == (windows([9, 12]), 1)


def test_a_changed_value_makes_its_window_dirty(lake: Lake) -> None:
    """Rows are compared by all their values except the time of ingestion."""
    before = add(lake, 0, 3, 9)
    table = lake.writable_trades()
    is_changed = pl.col("trade_id") == "3"
    table_history.rewrite_files(
        table,
        list(table.scan().plan_files()),
        lambda rows: rows.with_columns(
            pl.when(is_changed).then(pl.col("price") * 2).otherwise(pl.col("price")).cast(pl.Decimal(18, 8)),
            pl.col("ingested_at") + timedelta(days=1),
        ),
    )
    assert find_dirty(lake, before) == (windows([3]), 2)
