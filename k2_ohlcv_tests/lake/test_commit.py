"""One commit is one snapshot, against one base, and leaves the metadata small."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.expressions.visitors import _ManifestEvalVisitor, visit
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake import commit as commits
from k2_ohlcv.lake.candles import MAX_FILES
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.retry import CONFLICT_ERRORS
from k2_ohlcv.lake.schemas import MIN_SNAPSHOTS_KEPT
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
NOW = datetime(2024, 6, 1, tzinfo=UTC)


def trades(start: int, count: int) -> list[Trade]:
    return [
        make_trade(i, AT + timedelta(minutes=i), 1, 1, market=("X", "Y")) for i in range(start, start + count)
    ]


def put(table: Table, some: Sequence[Trade], properties: dict[str, str] | None = None) -> Table:
    """Commit the candles of these trades, as a refresh of just their windows would."""
    return lakes.commit_candles(table, MINUTE, some, NOW, properties, {"k2.note": "test"})


@pytest.mark.each_store
def test_rows_and_properties_come_in_one_snapshot(lake: Lake) -> None:
    table = put(lake.writable_candles(MINUTE), trades(0, 3), {"k2.x": "1"})
    table = put(table, trades(2, 3), {"k2.x": "2"})
    assert len(table.snapshots()) == 2
    assert lake.candles(MINUTE).properties["k2.x"] == "2"
    assert table.current_snapshot().summary["k2.note"] == "test"  # type: ignore[index] # every snapshot of ours has one
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades(0, 5), MINUTE)


@pytest.mark.each_store
def test_of_two_commits_from_one_base_the_second_fails_and_leaves_no_file(lake: Lake) -> None:
    """Even where they touch other partitions, and even where one is of properties alone."""
    put(lake.writable_candles(MINUTE), trades(0, 1))
    stale = [lake.candles(MINUTE) for _ in range(2)]
    current = put(lake.writable_candles(MINUTE), trades(1, 1))
    files = set(lakes.list_data_files(current))
    with pytest.raises(CONFLICT_ERRORS):
        put(stale[0], trades(5000, 3))
    with pytest.raises(CONFLICT_ERRORS):
        commit_change(stale[1], TableCommit(properties={"k2.x": "1"}))
    assert set(lakes.list_data_files(lake.candles(MINUTE))) == files
    on_disk = {path for path in lakes.files_of(current) if path.endswith(".parquet")}
    assert on_disk >= files
    assert not any("2024-03" in path for path in on_disk)


def location(table: Table):  # type: ignore[no-untyped-def]
    from pathlib import Path

    return Path(table.location().removeprefix("file://"))


@pytest.mark.each_store
def test_a_commit_of_properties_alone_is_a_snapshot_that_conflicts(lake: Lake) -> None:
    """Without the snapshot it would never conflict with anything."""
    base, other = lake.writable_candles(MINUTE), lake.candles(MINUTE)
    commit_change(base, TableCommit(properties={"k2.x": "1"}))
    with pytest.raises(CONFLICT_ERRORS):
        commit_change(other, TableCommit(properties={"k2.x": "2"}))
    assert lake.candles(MINUTE).properties["k2.x"] == "1"


def test_a_partition_never_has_more_than_so_many_files(lake: Lake) -> None:
    """The commit that would add one too many rewrites the partition as one."""
    most = 0
    for i in range(MAX_FILES + 4):
        table = put(lake.writable_candles(MINUTE), trades(i, 1))
        most = max(most, len(lakes.list_data_files(table)))
    assert most == MAX_FILES
    assert len(lakes.list_data_files(table)) <= 5
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades(0, MAX_FILES + 4), MINUTE)


def test_windows_beside_the_changed_ones_survive_the_rewrite_of_their_file(lake: Lake) -> None:
    put(lake.writable_candles(MINUTE), trades(0, 10))
    changed = [*trades(4, 1), make_trade("900", AT + timedelta(minutes=4), 3, 1, market=("X", "Y"))]
    table = put(lake.writable_candles(MINUTE), changed)
    assert lakes.read_candles(lake, MINUTE) == aggregate([*trades(0, 10), changed[1]], MINUTE)
    assert len(lakes.list_data_files(table)) == 1


def test_history_and_manifests_stay_bounded(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots expire with the commits, tagged ones excepted; dead manifests go, others merge."""
    monkeypatch.setattr(commits, "MIN_SNAPSHOTS_KEPT", 10)
    assert MIN_SNAPSHOTS_KEPT > 10
    table = put(lake.writable_candles(MINUTE), trades(0, 1))
    first = table.current_snapshot().snapshot_id
    table.manage_snapshots().create_tag(first, "kept").commit()
    manifests = 0
    for i in range(40):
        table = put(lake.writable_candles(MINUTE), trades(1440 * (i % 20) + i, 1))
        manifests = max(manifests, len(table.current_snapshot().manifests(table.io)))
    assert len(table.snapshots()) <= 12
    assert table.snapshot_by_id(first) is not None
    assert manifests <= 2 * commits._MIN_MANIFESTS_TO_MERGE
    assert len(live_files(table, table.current_snapshot().snapshot_id)) > 20
    assert len(list(location(table).glob("metadata/*.metadata.json"))) <= 25


def test_manifests_are_judged_by_several_threads_at_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyIceberg's evaluator keeps the manifest that it looks at: shared, it takes one's day for another's."""

    def slow(self: _ManifestEvalVisitor, manifest: ManifestFile) -> bool:
        self.partition_fields = manifest.partitions or []
        time.sleep(0.02)  # another thread's turn
        return bool(visit(self.partition_filter, self))

    table = lake.writable_candles(MINUTE)
    for day in range(4):
        table = put(table, trades(day * 1440, 2))
    monkeypatch.setattr(_ManifestEvalVisitor, "eval", slow)
    # The newest first: PyIceberg comes to its manifest first, and to the others while that one waits.
    for left, path in reversed(list(enumerate(sorted(lakes.list_data_files(table))))):
        (file,) = [t.file for t in table.scan().plan_files() if t.file.file_path == path]
        table = commit_change(table, TableCommit(removed_files=(file,)))
        assert len(lakes.list_data_files(table)) == left
