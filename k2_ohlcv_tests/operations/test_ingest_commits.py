"""Commits of ingestion beside other commits: against the base that was looked in, or not at all."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
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
from k2_ohlcv.lake import append, commit, dedupe, retry, trades
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance import compaction
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.snapshot_diff import diff_snapshots
from k2_ohlcv.lake.schemas import MIN_SNAPSHOTS_KEPT
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv_tests.support import lakes

T = 1723161255
Add = Callable[..., int]


@pytest.fixture
def add(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Ingest rows of these numbers; gives how many were added."""
    monkeypatch.setattr(retry, "_MIN_PAUSE", 0.0)

    def call(*numbers: int) -> int:
        path = tmp_path / f"{numbers}.csv"
        path.write_text("timestamp,price,size,id\n" + "".join(f"{T + n},{n + 1},1,{n}\n" for n in numbers))
        return ingest(lake, [path], exchange="E", symbol="S", workspace=tmp_path / "work").added

    return call


def ids(lake: Lake) -> list[int]:
    return sorted(int(i) for i in lake.trades().scan().to_arrow()["trade_id"].to_pylist())


def files_on_disk(lake: Lake) -> int:
    return sum(path.endswith(".parquet") for path in lakes.files_of(lake.trades()))


def test_pyiceberg_refuses_an_append_on_a_moved_head(lake: Lake, add: Add) -> None:
    """What all of this stands on: with no retries of its own, the second of two appends fails."""
    add(1)
    stale = lake.trades()
    rows = stale.scan().to_arrow()
    add(2)
    with pytest.raises(CommitFailedException):
        stale.append(rows)
    empty_base = lake.writable_rejected()
    refused = empty_base.schema().as_arrow().empty_table()
    lake.rejected().append(refused)
    with pytest.raises(CommitFailedException):
        empty_base.append(refused)


def between_look_and_commit(
    monkeypatch: pytest.MonkeyPatch, times: int, other: Callable[[], object]
) -> list[int]:
    """Let another writer in, so many times, after the look-up and before the commit."""
    look, calls = trades.find_duplicates, []

    def looked(table: Table, incoming: dedupe.TradeBatch) -> dedupe.DedupeResult:
        verdict = look(table, incoming)
        calls.append(1)
        if len(calls) <= times:
            monkeypatch.setattr(trades, "find_duplicates", look)
            other()
            monkeypatch.setattr(trades, "find_duplicates", looked)
        return verdict

    monkeypatch.setattr(trades, "find_duplicates", looked)
    return calls


@pytest.mark.each_store
def test_another_commit_in_between_is_looked_at_again(
    lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that the other one brought are known by then, and the files of the first try are gone."""
    calls = between_look_and_commit(monkeypatch, 1, lambda: add(2, 3))
    assert add(1, 2) == 1
    assert len(calls) == 2
    assert ids(lake) == [1, 2, 3]
    assert files_on_disk(lake) == 2
    assert len(lake.trades().snapshots()) == 2


def test_a_store_that_refuses_to_remove_files_fails_no_append(
    lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the try that lost the race stays, for the clean-up of orphans."""

    def refused(*_: object) -> None:
        raise PermissionError(13, "ACCESS_DENIED during DeleteObject")

    between_look_and_commit(monkeypatch, 1, lambda: add(2, 3))
    monkeypatch.setattr(PyArrowFileIO, "delete", refused)
    assert add(1, 2) == 1
    assert ids(lake) == [1, 2, 3]
    assert files_on_disk(lake) == 3


def test_where_every_try_is_lost_a_store_that_refuses_to_remove_files_hides_no_conflict(
    lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the conflict, which can be tried again, and not the refusal."""

    def refused(*_: object) -> None:
        raise PermissionError(13, "ACCESS_DENIED during DeleteObject")

    monkeypatch.setattr(append, "MAX_APPEND_ATTEMPTS", 2)
    others = iter(range(100, 200))
    between_look_and_commit(monkeypatch, 99, lambda: add(next(others)))
    monkeypatch.setattr(PyArrowFileIO, "delete", refused)
    with pytest.raises(CommitConflictError, match="2 attempts"):
        add(1)
    assert ids(lake) == [100, 101]


def test_files_are_written_once_where_the_other_commit_changes_nothing_for_us(
    lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losing a race costs a look and a commit, not the writing."""
    written: list[object] = []
    write = append.write_files
    between_look_and_commit(monkeypatch, 3, lambda: add(100 + len(written)))

    def count_writes(*arguments: Any) -> Any:
        written.append(arguments)
        return write(*arguments)

    monkeypatch.setattr(append, "write_files", count_writes)
    assert add(1, 2) == 2
    assert len(written) == 1 + 3
    assert len(ids(lake)) == 5


def test_who_loses_every_time_says_so(lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that can be tried again, nothing added, no file left."""
    monkeypatch.setattr(append, "MAX_APPEND_ATTEMPTS", 3)
    others = iter(range(100, 200))
    between_look_and_commit(monkeypatch, 99, lambda: add(next(others)))
    with pytest.raises(CommitConflictError, match="3 attempts") as caught:
        add(1)
    assert caught.value.is_retryable
    assert ids(lake) == [100, 101, 102]
    assert files_on_disk(lake) == 3


def test_a_replaced_table_is_not_committed_to(lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written for the old one are not the new one's."""
    add(1)

    def replace() -> None:
        lake.catalog.drop_table(lake.trades().name())
        lake.trades()

    between_look_and_commit(monkeypatch, 1, replace)
    assert add(1, 2) == 2
    assert ids(lake) == [1, 2]


def snapshot_ids(lake: Lake) -> list[int]:
    return [s.snapshot_id for s in sorted(lake.trades().snapshots(), key=lambda s: s.sequence_number or 0)]


@pytest.fixture
def many(lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Keep three snapshots instead of a hundred; six are there."""
    assert trades.MIN_SNAPSHOTS_KEPT == MIN_SNAPSHOTS_KEPT == 100
    for n in range(6):
        add(n)
    for module in (commit, trades):
        monkeypatch.setattr(module, "SNAPSHOTS_KEPT", 3)
    return snapshot_ids(lake)


def watermark(lake: Lake, which: int, snapshot: int) -> None:
    lakes.set_watermark(lake, TIMEFRAMES[which], snapshot)


def test_old_snapshots_go_with_the_commit_that_makes_them_old(lake: Lake, add: Add, many: list[int]) -> None:
    """All data stays."""
    add(6)
    assert snapshot_ids(lake)[:2] == many[-2:]
    assert len(snapshot_ids(lake)) == 3
    assert ids(lake) == list(range(7))


def test_what_a_candle_table_still_has_to_read_stays(lake: Lake, add: Add, many: list[int]) -> None:
    """From the oldest watermark on; a table without one, or with one that is gone, holds nothing."""
    lake.candles(TIMEFRAMES[0])
    watermark(lake, 1, many[4])
    watermark(lake, 2, many[1])
    watermark(lake, 3, 12345)
    add(6)
    assert snapshot_ids(lake)[:-1] == many[1:]
    watermark(lake, 2, many[5])
    add(7)
    assert snapshot_ids(lake)[:2] == many[4:]


def test_tags_stay_even_those_made_meanwhile(
    lake: Lake, add: Add, many: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked at immediately before the commit."""
    lake.trades().manage_snapshots().create_tag(many[0], "before").commit()
    between_look_and_commit(
        monkeypatch, 1, lambda: lake.trades().manage_snapshots().create_tag(many[1], "meanwhile").commit()
    )
    add(6)
    assert snapshot_ids(lake)[:2] == many[:2]
    assert len(snapshot_ids(lake)) == 2 + 3
    assert {"before", "meanwhile"} <= set(lake.trades().metadata.refs)


def test_the_clock_is_stored_in_utc(lake: Lake, add: Add) -> None:
    """To the microsecond, near now."""
    add(1)
    (clock,) = lake.trades().scan().to_arrow()["ingested_at"].to_pylist()
    assert abs(datetime.now(UTC) - clock).total_seconds() < 60


def test_small_files_of_a_day_become_few_and_no_window_is_dirty_by_it(lake: Lake, add: Add) -> None:
    most, known, merged = 0, None, 0
    for number in range(2 * MIN_SMALL_FILES + 3):
        assert add(number) == 1
        table = lake.trades()
        most = max(most, len(table.inspect.files()))
        snapshot = table.current_snapshot()
        assert snapshot is not None
        assert snapshot.summary is not None
        merged += snapshot.summary.operation == Operation.REPLACE
        if known is not None:
            at = datetime.fromtimestamp(T + number, UTC)
            assert diff_snapshots(table, known, snapshot.snapshot_id).bounds == [
                Interval(at, at + MICROSECOND)
            ]
        known = snapshot.snapshot_id
    assert most < MIN_SMALL_FILES
    assert merged == 2
    assert ids(lake) == list(range(2 * MIN_SMALL_FILES + 3))
    assert add(*range(2 * MIN_SMALL_FILES + 3)) == 0  # known, wherever they lie now


def test_a_merge_that_loses_its_race_leaves_the_append_as_it_is(
    lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(table: Table, change: commit.TableCommit) -> Table:
        assert change.files
        other = lake.trades()
        other.append(other.schema().as_arrow().empty_table())
        return commit.commit_change(table, change)

    monkeypatch.setattr(compaction, "commit_change", lost)
    for number in range(MIN_SMALL_FILES):
        add(number)
    assert ids(lake) == list(range(MIN_SMALL_FILES))
    assert files_on_disk(lake) == len(lake.trades().inspect.files()) == MIN_SMALL_FILES


def test_a_merge_that_cannot_write_leaves_the_append_as_it_is(
    lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> list[object]:
        raise OSError("no space left on device")

    monkeypatch.setattr(compaction, "_rewrite_group", full)
    assert [add(number) for number in range(MIN_SMALL_FILES)] == [1] * MIN_SMALL_FILES
    assert ids(lake) == list(range(MIN_SMALL_FILES))


def test_a_tag_that_comes_during_a_merge_keeps_its_snapshot(
    lake: Lake, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (commit, trades):
        monkeypatch.setattr(module, "SNAPSHOTS_KEPT", MIN_SMALL_FILES)
    rewritten = compaction._rewrite_group
    tagged: list[int] = []

    def tag(table: Table, files: Sequence[LiveFile]) -> list[DataFile]:
        tagged.append(snapshot_ids(lake)[0])
        lake.trades().manage_snapshots().create_tag(tagged[0], "audit").commit()
        return rewritten(table, files)

    monkeypatch.setattr(compaction, "_rewrite_group", tag)
    for number in range(MIN_SMALL_FILES):
        add(number)
    assert len(lake.trades().inspect.files()) == 1
    assert snapshot_ids(lake)[0] == tagged[0]
