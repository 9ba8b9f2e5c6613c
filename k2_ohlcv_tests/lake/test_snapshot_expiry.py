"""Expiry of snapshots and dropped partitions: races with other writers, and kills at any step."""

import pkgutil
from datetime import UTC, datetime

import pytest
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.table import Table, Transaction
from structlog.testing import capture_logs

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.lake import retry
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, bound_property_update, read_bound
from k2_ohlcv.lake.maintenance import orphan_files, partition_drops, snapshot_expiry
from k2_ohlcv.lake.maintenance.orphan_files import remove_orphans
from k2_ohlcv.lake.maintenance.snapshot_expiry import expire_snapshots
from k2_ohlcv.lake.maintenance.table_files import RemovedFiles
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.daily_candles import (
    BOUND,
    FAR_FUTURE,
    assert_candles,
    drop_days,
    list_files,
    load_candles,
    trades_of_days,
    when_orphans_are_old,
)


def test_expired_before_only_increases(twenty_days: Lake) -> None:
    """An equal or earlier bound changes no property."""
    drop_days(twenty_days)
    table = twenty_days.candles(MINUTE)
    assert read_bound(table, EXPIRED_BEFORE) == BOUND
    assert bound_property_update(table, EXPIRED_BEFORE, BOUND - DAY) == {}
    assert bound_property_update(table, EXPIRED_BEFORE, BOUND) == {}
    assert bound_property_update(table, EXPIRED_BEFORE, BOUND + DAY) == {
        EXPIRED_BEFORE: (BOUND + DAY).isoformat()
    }


@pytest.mark.each_store
def test_files_of_expired_snapshots_alone_are_removed(twenty_days: Lake) -> None:
    """Other files stay, and so does the metadata of the commit. Removed bytes are counted."""
    drop_days(twenty_days)
    sizes = lakes.files_of(twenty_days.candles(MINUTE))
    before = set(sizes)
    report = expire_snapshots(load_candles(twenty_days), FAR_FUTURE)
    removed_paths = before - list_files(twenty_days)
    assert report.snapshots == 2
    assert report.removed == RemovedFiles(len(removed_paths), sum(sizes[path] for path in removed_paths))
    assert sum(path.endswith(".parquet") for path in removed_paths) == 10
    assert_candles(twenty_days)


@pytest.mark.each_store
def test_shared_manifests_and_files_stay(twenty_days: Lake) -> None:
    """A tagged snapshot is readable after the others expire."""
    table = twenty_days.candles(MINUTE)
    table.manage_snapshots().create_tag(table.snapshots()[0].snapshot_id, "first").commit()
    drop_days(twenty_days)
    expire_snapshots(load_candles(twenty_days), FAR_FUTURE)
    table = twenty_days.candles(MINUTE)
    assert len(table.snapshots()) == 2
    assert table.scan(snapshot_id=table.refs()["first"].snapshot_id).to_arrow().num_rows == 30
    assert_candles(twenty_days)


@pytest.mark.parametrize("moment", ["after the search", "while committing"])
def test_a_tag_during_expiry_is_kept(twenty_days: Lake, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The snapshots are selected again before the commit, and this catalog checks the references."""
    drop_days(twenty_days)
    first = twenty_days.candles(MINUTE).snapshots()[0].snapshot_id
    tag_in_between(twenty_days, monkeypatch, moment, first)
    report = expire_snapshots(load_candles(twenty_days), FAR_FUTURE)
    assert report.snapshots == 1
    assert twenty_days.candles(MINUTE).scan(snapshot_id=first).to_arrow().num_rows == 30
    assert twenty_days.candles(MINUTE).refs()["kept"].snapshot_id == first
    assert_candles(twenty_days)


def tag_in_between(lake: Lake, monkeypatch: pytest.MonkeyPatch, moment: str, snapshot: int) -> None:
    def tag() -> None:
        monkeypatch.undo()
        lake.candles(MINUTE).manage_snapshots().create_tag(snapshot, "kept").commit()

    if moment == "while committing":
        real = Transaction.commit_transaction

        def commit_transaction(self: Transaction) -> Table:
            tag()
            return real(self)

        monkeypatch.setattr(Transaction, "commit_transaction", commit_transaction)
    else:
        real_search = orphan_files.files_only_referenced_by

        def only_reached_by(*args: object) -> set[str]:
            tag()
            return real_search(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(snapshot_expiry, "files_only_referenced_by", only_reached_by)


def test_a_tag_that_a_catalog_loses_is_restored(twenty_days: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A REST catalog may lose the tag: it cannot require that no other reference exists."""
    drop_days(twenty_days)
    first = twenty_days.candles(MINUTE).snapshots()[0].snapshot_id
    tag_in_between(twenty_days, monkeypatch, "while committing", first)
    with pytest.MonkeyPatch.context() as rest_catalog, capture_logs() as logged:
        rest_catalog.setattr(snapshot_expiry._NoNewRefs, "validate", lambda *_: None)
        expire_snapshots(load_candles(twenty_days), FAR_FUTURE)
    numbers = [s.sequence_number for s in twenty_days.candles(MINUTE).snapshots()]
    assert twenty_days.candles(MINUTE).metadata.last_sequence_number == max(
        n for n in numbers if n is not None
    )
    assert f"kept (snapshot {first})" in [entry.get("refs") for entry in logged]
    assert twenty_days.candles(MINUTE).refs()["kept"].snapshot_id == first
    assert twenty_days.candles(MINUTE).scan(snapshot_id=first).to_arrow().num_rows == 30
    assert_candles(twenty_days)


def test_expiry_that_loses_every_race_fails(twenty_days: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the attempts, and no candle is lost."""
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    real = partition_drops.commit_change

    def lose_race(table: Table, change: TableCommit) -> Table:
        commit_change(twenty_days.candles(MINUTE), TableCommit(properties={"note": "external"}))
        return real(table, change)

    monkeypatch.setattr(partition_drops, "commit_change", lose_race)
    with pytest.raises(CommitConflictError, match="during each of 2 attempts of retention"):
        drop_days(twenty_days)
    assert lakes.read_candles(twenty_days, MINUTE) == aggregate(trades_of_days(20), MINUTE)


def test_the_embedded_catalog_checks_our_requirement(lake: Lake) -> None:
    """The requirement prevents the race with a new tag. A REST catalog would refuse it."""
    assert isinstance(lake.catalog, MetastoreCatalog)


def test_snapshots_outside_the_current_history_expire(twenty_days: Lake) -> None:
    """A rollback leaves snapshots that are no ancestors of the current one."""
    table = twenty_days.candles(MINUTE)
    table_history.roll_back(table, table.snapshots()[0].snapshot_id)
    assert expire_snapshots(load_candles(twenty_days), FAR_FUTURE).snapshots == 1
    assert lakes.read_candles(twenty_days, MINUTE) == aggregate(trades_of_days(10), MINUTE)


class Killed(BaseException):
    """The process is killed."""


def run_retention(lake: Lake, now: datetime | None = None) -> None:
    """Run the three steps of retention on a table."""
    drop_days(lake)
    expire_snapshots(load_candles(lake), FAR_FUTURE)
    remove_orphans(load_candles(lake), now or datetime.now(UTC))


@pytest.mark.parametrize("calls", range(1, 9))
@pytest.mark.parametrize(
    "target",
    [
        "pyiceberg.table.Transaction.commit_transaction",
        "pyiceberg.table.Table._do_commit",
        "k2_ohlcv.lake.maintenance.snapshot_expiry.files_only_referenced_by",
        "k2_ohlcv.lake.maintenance.snapshot_expiry.remove_unreferenced",
        "k2_ohlcv.lake.maintenance.table_files.TableFiles._remove_file",
        "k2_ohlcv.lake.maintenance.table_files.TableFiles._remove_empty_folders",
    ],
)
def test_after_a_kill_tables_are_readable_and_the_next_run_finishes(
    twenty_days: Lake, monkeypatch: pytest.MonkeyPatch, target: str, calls: int
) -> None:
    """The next run leaves the same files as a run without a kill. Orphans are old by then."""
    module, _, name = target.rpartition(".")
    owner = pkgutil.resolve_name(module)
    real, count = getattr(owner, name), [0]

    def kill_at_call(*args: object, **options: object) -> object:
        count[0] += 1
        if count[0] == calls:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(owner, name, kill_at_call)
    try:
        run_retention(twenty_days)
    except Killed:
        table = twenty_days.candles(MINUTE)
        assert lakes.read_candles(twenty_days, MINUTE) in (
            aggregate(trades_of_days(20), MINUTE),
            aggregate(trades_of_days(20)[30:], MINUTE),
        )
        for snapshot in table.snapshots():
            table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()
    monkeypatch.undo()
    run_retention(twenty_days, when_orphans_are_old())
    assert_candles(twenty_days)
    table = twenty_days.candles(MINUTE)
    assert len(table.snapshots()) == 1
    assert lakes.list_parquet_files(table) == set(lakes.list_data_files(table))
