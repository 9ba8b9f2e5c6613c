"""Snapshots and small files of the trades table: what each append expires and merges."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from k2_ohlcv.domain.intervals import MICROSECOND, Interval
from k2_ohlcv.domain.retention import MIN_SMALL_FILES
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake import commit, trades
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance import compaction
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.snapshot_diff import diff_snapshots
from k2_ohlcv.lake.schemas import MIN_SNAPSHOTS_KEPT
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.crash import interrupt_lookups
from k2_ohlcv_tests.support.ingested import (
    START,
    IngestNumbers,
    count_trades_files,
    list_snapshot_ids,
    list_trade_ids,
)


@pytest.fixture
def six_snapshots(lake: Lake, ingest_numbers: IngestNumbers, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Six snapshots in a table that keeps three instead of a hundred."""
    assert trades.MIN_SNAPSHOTS_KEPT == MIN_SNAPSHOTS_KEPT == 100
    for n in range(6):
        ingest_numbers(n)
    for module in (commit, trades):
        monkeypatch.setattr(module, "MIN_SNAPSHOTS_KEPT", 3)
    return list_snapshot_ids(lake)


def set_watermark(lake: Lake, index: int, snapshot: int) -> None:
    """Set the watermark of one candle table."""
    lakes.set_watermark(lake, TIMEFRAMES[index], snapshot)


def test_an_append_expires_old_snapshots(
    lake: Lake, ingest_numbers: IngestNumbers, six_snapshots: list[int]
) -> None:
    """All trades stay."""
    ingest_numbers(6)
    assert list_snapshot_ids(lake)[:2] == six_snapshots[-2:]
    assert len(list_snapshot_ids(lake)) == 3
    assert list_trade_ids(lake) == list(range(7))


def test_snapshots_from_the_oldest_watermark_on_stay(
    lake: Lake, ingest_numbers: IngestNumbers, six_snapshots: list[int]
) -> None:
    """A table without a watermark, or with an expired one, protects no snapshot."""
    lake.candles(TIMEFRAMES[0])
    set_watermark(lake, 1, six_snapshots[4])
    set_watermark(lake, 2, six_snapshots[1])
    set_watermark(lake, 3, 12345)
    ingest_numbers(6)
    assert list_snapshot_ids(lake)[:-1] == six_snapshots[1:]
    set_watermark(lake, 2, six_snapshots[5])
    ingest_numbers(7)
    assert list_snapshot_ids(lake)[:2] == six_snapshots[4:]


def test_tagged_snapshots_stay(
    lake: Lake, ingest_numbers: IngestNumbers, six_snapshots: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag that is created between search and commit protects its snapshot too."""
    lake.trades().manage_snapshots().create_tag(six_snapshots[0], "before").commit()
    interrupt_lookups(
        monkeypatch,
        lambda: lake.trades().manage_snapshots().create_tag(six_snapshots[1], "meanwhile").commit(),
    )
    ingest_numbers(6)
    assert list_snapshot_ids(lake)[:2] == six_snapshots[:2]
    assert len(list_snapshot_ids(lake)) == 2 + 3
    assert {"before", "meanwhile"} <= set(lake.trades().metadata.refs)


def test_small_files_of_a_day_are_merged(lake: Lake, ingest_numbers: IngestNumbers) -> None:
    """The merge makes no window dirty, and duplicates are still found."""
    max_files, known_snapshot, merges = 0, None, 0
    for number in range(2 * MIN_SMALL_FILES + 3):
        assert ingest_numbers(number) == 1
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
    assert list_trade_ids(lake) == list(range(2 * MIN_SMALL_FILES + 3))
    # Every trade is a duplicate, found in the merged files.
    assert ingest_numbers(*range(2 * MIN_SMALL_FILES + 3)) == 0


def test_a_merge_that_loses_its_race_changes_nothing(
    lake: Lake, ingest_numbers: IngestNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The append stays committed, with its small files."""

    def commit_after_another_writer(table: Table, change: commit.TableCommit) -> Table:
        assert change.files
        current = lake.trades()
        current.append(current.schema().as_arrow().empty_table())
        return commit.commit_change(table, change)

    monkeypatch.setattr(compaction, "commit_change", commit_after_another_writer)
    for number in range(MIN_SMALL_FILES):
        ingest_numbers(number)
    assert list_trade_ids(lake) == list(range(MIN_SMALL_FILES))
    assert count_trades_files(lake) == len(lake.trades().inspect.files()) == MIN_SMALL_FILES


def test_a_merge_that_cannot_write_changes_nothing(
    lake: Lake, ingest_numbers: IngestNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk during the merge does not fail the append."""

    def fail(*_: object) -> list[object]:
        raise OSError("no space left on device")

    monkeypatch.setattr(compaction, "_rewrite_group", fail)
    assert [ingest_numbers(number) for number in range(MIN_SMALL_FILES)] == [1] * MIN_SMALL_FILES
    assert list_trade_ids(lake) == list(range(MIN_SMALL_FILES))


def test_a_tag_created_during_a_merge_keeps_its_snapshot(
    lake: Lake, ingest_numbers: IngestNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot stays readable after the merge's commit."""
    for module in (commit, trades):
        monkeypatch.setattr(module, "MIN_SNAPSHOTS_KEPT", MIN_SMALL_FILES)
    rewrite = compaction._rewrite_group
    tagged: list[int] = []

    def tag(table: Table, files: Sequence[LiveFile]) -> list[DataFile]:
        tagged.append(list_snapshot_ids(lake)[0])
        lake.trades().manage_snapshots().create_tag(tagged[0], "audit").commit()
        return rewrite(table, files)

    monkeypatch.setattr(compaction, "_rewrite_group", tag)
    for number in range(MIN_SMALL_FILES):
        ingest_numbers(number)
    assert len(lake.trades().inspect.files()) == 1
    assert list_snapshot_ids(lake)[0] == tagged[0]
