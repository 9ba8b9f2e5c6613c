"""A commit of candles is one snapshot on one base, and keeps the metadata small."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.expressions.visitors import _ManifestEvalVisitor, visit
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake import commit as commits
from k2_ohlcv.lake.candle_layout import MAX_FILES
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import CachedTransaction, TableCommit, commit_change
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.retry import CONFLICT_ERRORS
from k2_ohlcv.lake.schemas import MIN_SNAPSHOTS_KEPT
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
NOW = datetime(2024, 6, 1, tzinfo=UTC)


def trades(start: int, count: int) -> list[Trade]:
    return [
        make_trade(i, AT + timedelta(minutes=i), 1, 1, market=("X", "Y")) for i in range(start, start + count)
    ]


def commit_candles(table: Table, trades: Sequence[Trade], properties: dict[str, str] | None = None) -> Table:
    return lakes.commit_candles(table, MINUTE, trades, NOW, properties, {"k2.note": "test"})


@pytest.mark.each_store
def test_rows_and_properties_are_one_snapshot(lake: Lake) -> None:
    """Each commit adds one snapshot with its rows, properties and summary."""
    table = commit_candles(lake.writable_candles(MINUTE), trades(0, 3), {"k2.x": "1"})
    table = commit_candles(table, trades(2, 3), {"k2.x": "2"})
    operations = [snapshot.summary.operation for snapshot in table.snapshots() if snapshot.summary]
    assert operations == [Operation.APPEND, Operation.OVERWRITE]
    assert lake.candles(MINUTE).properties["k2.x"] == "2"
    assert table.current_snapshot().summary["k2.note"] == "test"  # type: ignore[index] # each commit here has a summary
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades(0, 5), MINUTE)


@pytest.mark.each_store
def test_of_two_commits_from_one_base_the_second_fails_and_leaves_no_file(lake: Lake) -> None:
    """This is true for other partitions, and for a commit of properties alone."""
    commit_candles(lake.writable_candles(MINUTE), trades(0, 1))
    stale = [lake.candles(MINUTE) for _ in range(2)]
    current = commit_candles(lake.writable_candles(MINUTE), trades(1, 1))
    files = set(lakes.list_data_files(current))
    with pytest.raises(CONFLICT_ERRORS):
        commit_candles(stale[0], trades(5000, 3))
    with pytest.raises(CONFLICT_ERRORS):
        commit_change(stale[1], TableCommit(properties={"k2.x": "1"}))
    assert set(lakes.list_data_files(lake.candles(MINUTE))) == files
    parquet_files = lakes.list_parquet_files(current)
    assert parquet_files >= files
    assert not any("2024-03" in path for path in parquet_files)


@pytest.mark.each_store
def test_a_commit_of_properties_alone_is_a_snapshot_that_conflicts(lake: Lake) -> None:
    """Without a snapshot it would conflict with no other commit."""
    base, other = lake.writable_candles(MINUTE), lake.candles(MINUTE)
    commit_change(base, TableCommit(properties={"k2.x": "1"}))
    with pytest.raises(CONFLICT_ERRORS):
        commit_change(other, TableCommit(properties={"k2.x": "2"}))
    assert lake.candles(MINUTE).properties["k2.x"] == "1"


def test_a_partition_has_a_bounded_number_of_files(lake: Lake) -> None:
    """The commit that would add one file too many rewrites the partition as one file."""
    max_files = 0
    for i in range(MAX_FILES + 4):
        table = commit_candles(lake.writable_candles(MINUTE), trades(i, 1))
        max_files = max(max_files, len(lakes.list_data_files(table)))
    assert max_files == MAX_FILES
    assert len(lakes.list_data_files(table)) <= 5
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades(0, MAX_FILES + 4), MINUTE)


def test_windows_beside_the_changed_ones_survive_the_rewrite_of_their_file(lake: Lake) -> None:
    """A changed window rewrites its file, and the other candles of the file stay."""
    commit_candles(lake.writable_candles(MINUTE), trades(0, 10))
    changed = [*trades(4, 1), make_trade("900", AT + timedelta(minutes=4), 3, 1, market=("X", "Y"))]
    table = commit_candles(lake.writable_candles(MINUTE), changed)
    assert lakes.read_candles(lake, MINUTE) == aggregate([*trades(0, 10), changed[1]], MINUTE)
    assert len(lakes.list_data_files(table)) == 1


def test_history_and_manifests_stay_bounded(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits expire untagged snapshots, remove empty manifests and merge others."""
    monkeypatch.setattr(commits, "MIN_SNAPSHOTS_KEPT", 10)
    assert MIN_SNAPSHOTS_KEPT > 10
    table = commit_candles(lake.writable_candles(MINUTE), trades(0, 1))
    first = table.current_snapshot().snapshot_id
    table.manage_snapshots().create_tag(first, "kept").commit()
    manifests = 0
    for i in range(40):
        table = commit_candles(lake.writable_candles(MINUTE), trades(1440 * (i % 20) + i, 1))
        manifests = max(manifests, len(table.current_snapshot().manifests(table.io)))
    assert len(table.snapshots()) == 10 + 1
    assert table.snapshot_by_id(first) is not None
    assert manifests <= 2 * commits._MIN_MANIFESTS_TO_MERGE
    assert len(live_files(table, table.current_snapshot().snapshot_id)) > 20
    assert sum(path.endswith(".metadata.json") for path in lakes.files_of(table)) <= 25


def test_manifests_without_live_files_are_dropped(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletes of another writer leave more of them than fit one merged manifest, which would be empty."""
    monkeypatch.setattr(commits, "_MANIFEST_BYTES", 16 * 1024)
    for _ in range(8):
        commit_candles(lake.writable_candles(MINUTE), trades(0, 3))
        lake.candles(MINUTE).delete()
    table = commit_candles(lake.writable_candles(MINUTE), trades(0, 3))
    (manifest,) = table.current_snapshot().manifests(table.io)
    assert manifest.deleted_files_count == 0
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades(0, 3), MINUTE)


def test_manifests_are_evaluated_by_several_threads(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyIceberg's evaluator stores its manifest, so a shared one mixes up days."""

    def slow(self: _ManifestEvalVisitor, manifest: ManifestFile) -> bool:
        self.partition_fields = manifest.partitions or []
        time.sleep(0.02)  # lets another thread run
        return bool(visit(self.partition_filter, self))

    table = lake.writable_candles(MINUTE)
    for day in range(4):
        table = commit_candles(table, trades(day * 1440, 2))
    monkeypatch.setattr(_ManifestEvalVisitor, "eval", slow)
    # The newest file is removed first: PyIceberg evaluates its manifest first, and the others meanwhile.
    for remaining, path in reversed(list(enumerate(sorted(lakes.list_data_files(table))))):
        (file,) = [t.file for t in table.scan().plan_files() if t.file.file_path == path]
        table = commit_change(table, TableCommit(removed_files=(file,)))
        assert len(lakes.list_data_files(table)) == remaining


def test_a_removed_file_leaves_its_neighbours_in_the_manifest(lake: Lake) -> None:
    """One manifest lists the files of two days."""
    table = commit_candles(lake.writable_candles(MINUTE), [*trades(0, 2), *trades(1440, 2)])
    (first, _) = sorted(table.scan().plan_files(), key=lambda task: task.file.file_path)
    commit_change(table, TableCommit(removed_files=(first.file,)))
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades(1440, 2), MINUTE)


def test_a_lost_answer_of_the_catalog_leaves_the_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog may have committed. Without the files, the table would not be readable."""
    commit = CachedTransaction.commit_transaction

    def lose_answer(transaction: CachedTransaction) -> Table:
        commit(transaction)
        raise CommitStateUnknownException("the connection was closed")

    monkeypatch.setattr(CachedTransaction, "commit_transaction", lose_answer)
    with pytest.raises(CommitStateUnknownException):
        commit_candles(lake.writable_candles(MINUTE), trades(0, 3))
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades(0, 3), MINUTE)


def test_deletes_of_other_engines_stay_while_they_apply(lake: Lake) -> None:
    """A commit that drops them early would restore the deleted rows."""
    table = commit_candles(lake.writable_candles(MINUTE), [*trades(0, 2), *trades(1440, 2)])
    (first, second) = (t.file for t in sorted(table.scan().plan_files(), key=lambda t: t.file.file_path))
    external_tables.delete_positions(table, [(first.file_path, 0)], partition=first.partition)
    table = commit_change(lake.writable_candles(MINUTE), TableCommit(removed_files=(second,)))
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades(1, 1), MINUTE)
    table = commit_change(table, TableCommit(removed_files=(first,)))
    assert live_files(table, table.current_snapshot().snapshot_id) == []
