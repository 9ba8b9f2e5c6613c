"""Which windows differ between two snapshots of trades, without an engine."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY, Interval, coalesce
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY, TableCommit, commit_change
from k2_ohlcv.lake.metadata.snapshot_diff import (
    SnapshotDiff,
    diff_snapshots,
    find_dirty_windows,
    trades_spans,
)
from k2_ohlcv_tests.support import lakes, table_history

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)


def trade(minute: float) -> Trade:
    """A trade so many minutes after noon."""
    return Trade("X", "Y", str(minute), AT + minute * timedelta(minutes=1), Decimal(100), Decimal(1))


def add(lake: Lake, *minutes: float) -> int:
    """Append trades in a file a day; the snapshot that they make."""
    return table_history.current_snapshot_id(lakes.add_trades(lake, map(trade, minutes)))


def windows(minutes: Iterable[float]) -> list[Interval]:
    return coalesce(MINUTE.window(trade(m).timestamp) for m in minutes)


def dirty(lake: Lake, before: int) -> tuple[list[Interval], int]:
    """The windows that changed since a snapshot, and how many files were read to find them."""
    trades = lake.trades()
    found = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    assert found.reason is None
    told = find_dirty_windows(trades, found, MINUTE)
    return list(told.intervals), told.files_read


def test_appended_files_are_read_for_their_windows(lake: Lake) -> None:
    before = add(lake, 0, 1440)
    add(lake, 3, 9.5)
    assert dirty(lake, before) == (windows([3, 9.5]), 1)


def test_a_file_of_one_window_is_not_read(lake: Lake) -> None:
    before = add(lake, 0)
    add(lake, 3, 3.9)
    assert dirty(lake, before) == (windows([3]), 0)


def test_a_rewritten_file_is_compared_row_by_row(lake: Lake) -> None:
    """One row of it changed: only that row's window differs, although another file came."""
    before = add(lake, 0, 3, 9)
    table = lake.writable_trades()
    table.delete("trade_id == '3'")
    assert dirty(lake, before) == (windows([3]), 2)


def test_a_row_that_is_there_once_more_differs(lake: Lake) -> None:
    """Rows are counted: a file rewritten with one of its rows twice is not equal."""
    before = add(lake, 0, 3, 9)
    table = lake.writable_trades()
    table_history.rewrite_files(
        table, list(table.scan().plan_files()), lambda rows: rows.vstack(rows.slice(1, 1))
    )
    assert dirty(lake, before) == (windows([3]), 2)


def test_a_file_that_went_is_read_where_it_is_still_there(lake: Lake) -> None:
    before = add(lake, 0, 1440, 1443)
    table = lake.writable_trades()
    table.delete(f"timestamp >= '{(AT + timedelta(hours=12)).isoformat()}'")
    assert dirty(lake, before) == (windows([1440, 1443]), 1)


def test_a_file_that_cannot_be_read_counts_with_its_bounds(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = add(lake, 0)
    add(lake, 3, 9.5)

    def gone(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("k2_ohlcv.lake.metadata.snapshot_diff.ArrowScan.to_table", gone)
    assert dirty(lake, before) == ([Interval(windows([3])[0].start, windows([9])[0].end)], 0)


@pytest.mark.parametrize(
    ("name", "most", "read"),
    [("MAX_ROWS", 4, 2), ("MAX_ROWS", 3, 1), ("MAX_FILES", 2, 2), ("MAX_FILES", 1, 1)],
)
def test_what_is_read_is_bounded(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, name: str, most: int, read: int
) -> None:
    """Beyond so many rows or files, all files that are left count with their bounds."""
    monkeypatch.setattr(f"k2_ohlcv.lake.metadata.snapshot_diff.{name}", most)
    before = add(lake, 0)
    add(lake, 3, 9)
    add(lake, 1443, 1449)
    told, files = dirty(lake, before)
    assert files == read
    assert len(told) == 2 * read + (2 - read)


def test_a_snapshot_that_is_not_there_dirties_everything(lake: Lake) -> None:
    after = add(lake, 0)
    trades = lake.trades()
    assert diff_snapshots(trades, None, after).reason == "the table has no watermark yet"
    assert diff_snapshots(trades, after, after) == SnapshotDiff()
    assert "1, has expired" in (diff_snapshots(trades, 1, after).reason or "")


def test_trades_lie_within_the_bounds_of_their_files(lake: Lake) -> None:
    assert trades_spans(lake.writable_trades(), None) == []
    snapshot = add(lake, 0, 3, 1440)
    micro = timedelta(microseconds=1)
    first = Interval(trade(0).timestamp, trade(3).timestamp + micro)
    assert trades_spans(lake.trades(), snapshot) == [first, Interval(AT + DAY, AT + DAY + micro)]


def settled(lake: Lake, before: int) -> tuple[int, int]:
    """How many files went and came since a snapshot, but for moves."""
    trades = lake.trades()
    found = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    return len(found.removed_files), len(found.added_files)


def test_compacted_files_did_not_change(lake: Lake) -> None:
    """Those of the watermark moved. Those that came since are found by the files that they came in."""
    add(lake, 0, 3)
    before = add(lake, 9)
    table = lake.writable_trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    assert settled(lake, before) == (0, 0)
    add(lake, 20, 23)
    table = lake.writable_trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    assert settled(lake, before) == (0, 1)
    assert dirty(lake, before) == (windows([20, 23]), 1)


def test_only_what_retention_says_that_it_dropped_did_not_change(lake: Lake) -> None:
    before = add(lake, 0, 3, 1440, 1443)
    for day, summary in ((AT, {RETENTION_SUMMARY_KEY: "of retention"}), (AT + DAY, {})):
        table = lake.writable_trades()
        files = [t.file for t in table.scan().plan_files() if t.file.partition[0] == Grain.DAY.ordinal(day)]
        commit_change(table, TableCommit(removed_files=tuple(files), summary=summary))
    assert settled(lake, before) == (1, 0)
    assert dirty(lake, before) == (windows([1440, 1443]), 1)


def test_a_rollback_takes_back_what_came(lake: Lake) -> None:
    """The earlier snapshot is no ancestor of the current one: their files are compared all the same."""
    first = add(lake, 0, 3)
    before = add(lake, 9, 12)
    table_history.roll_back(lake.writable_trades(), first)
    assert settled(lake, before) == (1, 0)
    assert dirty(lake, before) == (windows([9, 12]), 1)
