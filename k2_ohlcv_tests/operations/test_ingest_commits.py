"""Commits of ingestion: races with other writers, old snapshots and small files."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.domain.intervals import MICROSECOND, Interval
from k2_ohlcv.domain.retention import MIN_SMALL_FILES
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake import append, commit, trades
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance import compaction
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.snapshot_diff import diff_snapshots
from k2_ohlcv.lake.schemas import MIN_SNAPSHOTS_KEPT
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.crash import interrupt_lookups
from k2_ohlcv_tests.support.ingested import START, AddIds, count_files, read_ids, snapshot_ids


def test_pyiceberg_refuses_an_append_on_a_moved_head(lake: Lake, add_ids: AddIds) -> None:
    """Ingestion relies on this: without PyIceberg's retries, the second of two appends fails."""
    add_ids(1)
    stale = lake.trades()
    rows = stale.scan().to_arrow()
    add_ids(2)
    with pytest.raises(CommitFailedException):
        stale.append(rows)
    empty_base = lake.writable_rejected()
    empty = empty_base.schema().as_arrow().empty_table()
    lake.rejected().append(empty)
    with pytest.raises(CommitFailedException):
        empty_base.append(empty)


@pytest.mark.each_store
def test_a_lost_race_repeats_the_search(lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trades of the other writer become duplicates, and the files of the first attempt are removed."""
    calls = interrupt_lookups(monkeypatch, lambda: add_ids(2, 3))
    assert add_ids(1, 2) == 1
    assert calls[0] == 2
    assert read_ids(lake) == [1, 2, 3]
    assert count_files(lake) == 2
    assert len(lake.trades().snapshots()) == 2


def test_refused_removals_fail_nothing(lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the lost attempt stays until orphan files are removed."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "ACCESS_DENIED during DeleteObject")

    interrupt_lookups(monkeypatch, lambda: add_ids(2, 3))
    monkeypatch.setattr(PyArrowFileIO, "delete", refuse)
    assert add_ids(1, 2) == 1
    assert read_ids(lake) == [1, 2, 3]
    assert count_files(lake) == 3


def test_refused_removals_do_not_hide_a_conflict(
    lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If every attempt is lost, the error is the conflict, which can be retried, and not the refusal."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "ACCESS_DENIED during DeleteObject")

    monkeypatch.setattr(append, "MAX_APPEND_ATTEMPTS", 2)
    numbers = iter(range(100, 200))
    interrupt_lookups(monkeypatch, lambda: add_ids(next(numbers)), times=99)
    monkeypatch.setattr(PyArrowFileIO, "delete", refuse)
    with pytest.raises(CommitConflictError, match="2 attempts"):
        add_ids(1)
    assert read_ids(lake) == [100, 101]


def test_retries_write_no_new_files(lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lost race only the search and the commit are repeated."""
    writes: list[object] = []
    write = append.write_files
    interrupt_lookups(monkeypatch, lambda: add_ids(100 + len(writes)), times=3)

    def count_writes(*arguments: Any) -> Any:
        writes.append(arguments)
        return write(*arguments)

    monkeypatch.setattr(append, "write_files", count_writes)
    assert add_ids(1, 2) == 2
    assert len(writes) == 1 + 3
    assert len(read_ids(lake)) == 5


def test_losing_every_race_fails(lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is retryable, no trade is added, and no file stays."""
    monkeypatch.setattr(append, "MAX_APPEND_ATTEMPTS", 3)
    numbers = iter(range(100, 200))
    interrupt_lookups(monkeypatch, lambda: add_ids(next(numbers)), times=99)
    with pytest.raises(CommitConflictError, match="3 attempts") as caught:
        add_ids(1)
    assert caught.value.is_retryable
    assert read_ids(lake) == [100, 101, 102]
    assert count_files(lake) == 3


def test_a_replaced_table_gets_no_file(lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written for the old table are not added to its replacement."""
    add_ids(1)

    def replace() -> None:
        lake.catalog.drop_table(lake.trades().name())
        lake.trades()

    interrupt_lookups(monkeypatch, replace)
    assert add_ids(1, 2) == 2
    assert read_ids(lake) == [1, 2]


def test_ingested_at_is_stored_in_utc(lake: Lake, add_ids: AddIds) -> None:
    """The stored time is near the present."""
    add_ids(1)
    (ingested_at,) = lake.trades().scan().to_arrow()["ingested_at"].to_pylist()
    assert abs(datetime.now(UTC) - ingested_at).total_seconds() < 60


@pytest.fixture
def six_snapshots(lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Six snapshots in a table that keeps three instead of a hundred."""
    assert trades.MIN_SNAPSHOTS_KEPT == MIN_SNAPSHOTS_KEPT == 100
    for n in range(6):
        add_ids(n)
    for module in (commit, trades):
        monkeypatch.setattr(module, "MIN_SNAPSHOTS_KEPT", 3)
    return snapshot_ids(lake)


def set_watermark(lake: Lake, index: int, snapshot: int) -> None:
    lakes.set_watermark(lake, TIMEFRAMES[index], snapshot)


def test_an_append_expires_old_snapshots(lake: Lake, add_ids: AddIds, six_snapshots: list[int]) -> None:
    """All trades stay."""
    add_ids(6)
    assert snapshot_ids(lake)[:2] == six_snapshots[-2:]
    assert len(snapshot_ids(lake)) == 3
    assert read_ids(lake) == list(range(7))


def test_snapshots_after_a_watermark_stay(lake: Lake, add_ids: AddIds, six_snapshots: list[int]) -> None:
    """A table without a watermark, or with an expired one, protects no snapshot."""
    lake.candles(TIMEFRAMES[0])
    set_watermark(lake, 1, six_snapshots[4])
    set_watermark(lake, 2, six_snapshots[1])
    set_watermark(lake, 3, 12345)
    add_ids(6)
    assert snapshot_ids(lake)[:-1] == six_snapshots[1:]
    set_watermark(lake, 2, six_snapshots[5])
    add_ids(7)
    assert snapshot_ids(lake)[:2] == six_snapshots[4:]


def test_tagged_snapshots_stay(
    lake: Lake, add_ids: AddIds, six_snapshots: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag that is created between search and commit protects its snapshot too."""
    lake.trades().manage_snapshots().create_tag(six_snapshots[0], "before").commit()
    interrupt_lookups(
        monkeypatch,
        lambda: lake.trades().manage_snapshots().create_tag(six_snapshots[1], "meanwhile").commit(),
    )
    add_ids(6)
    assert snapshot_ids(lake)[:2] == six_snapshots[:2]
    assert len(snapshot_ids(lake)) == 2 + 3
    assert {"before", "meanwhile"} <= set(lake.trades().metadata.refs)


def test_small_files_of_a_day_are_merged(lake: Lake, add_ids: AddIds) -> None:
    """The merge makes no window dirty, and duplicates are still found."""
    max_files, known_snapshot, merges = 0, None, 0
    for number in range(2 * MIN_SMALL_FILES + 3):
        assert add_ids(number) == 1
        table = lake.trades()
        max_files = max(max_files, len(table.inspect.files()))
        snapshot = table.current_snapshot()
        merges += snapshot.summary.operation == Operation.REPLACE
        if known_snapshot is not None:
            at = datetime.fromtimestamp(START + number, UTC)
            assert diff_snapshots(table, known_snapshot, snapshot.snapshot_id).bounds == [
                Interval(at, at + MICROSECOND)
            ]
        known_snapshot = snapshot.snapshot_id
    assert max_files < MIN_SMALL_FILES
    assert merges == 2
    assert read_ids(lake) == list(range(2 * MIN_SMALL_FILES + 3))
    # Every trade is a duplicate, found in the merged files.
    assert add_ids(*range(2 * MIN_SMALL_FILES + 3)) == 0


def test_a_lost_merge_changes_nothing(lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The append stays committed, with its small files."""

    def commit_after_another_writer(table: Table, change: commit.TableCommit) -> Table:
        assert change.files
        current = lake.trades()
        current.append(current.schema().as_arrow().empty_table())
        return commit.commit_change(table, change)

    monkeypatch.setattr(compaction, "commit_change", commit_after_another_writer)
    for number in range(MIN_SMALL_FILES):
        add_ids(number)
    assert read_ids(lake) == list(range(MIN_SMALL_FILES))
    assert count_files(lake) == len(lake.trades().inspect.files()) == MIN_SMALL_FILES


def test_a_failed_merge_changes_nothing(lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk during the merge does not fail the append."""

    def fail(*_: object) -> list[object]:
        raise OSError("no space left on device")

    monkeypatch.setattr(compaction, "_rewrite_group", fail)
    assert [add_ids(number) for number in range(MIN_SMALL_FILES)] == [1] * MIN_SMALL_FILES
    assert read_ids(lake) == list(range(MIN_SMALL_FILES))


def test_a_tag_during_a_merge_is_kept(lake: Lake, add_ids: AddIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot stays readable after the merge's commit."""
    for module in (commit, trades):
        monkeypatch.setattr(module, "MIN_SNAPSHOTS_KEPT", MIN_SMALL_FILES)
    rewrite = compaction._rewrite_group
    tagged: list[int] = []

    def tag(table: Table, files: Sequence[LiveFile]) -> list[DataFile]:
        tagged.append(snapshot_ids(lake)[0])
        lake.trades().manage_snapshots().create_tag(tagged[0], "audit").commit()
        return rewrite(table, files)

    monkeypatch.setattr(compaction, "_rewrite_group", tag)
    for number in range(MIN_SMALL_FILES):
        add_ids(number)
    assert len(lake.trades().inspect.files()) == 1
    assert snapshot_ids(lake)[0] == tagged[0]
