"""Dropping, expiring and removing: whatever happens in between, tables read and what counts is there."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.table import Table, Transaction
from structlog.testing import capture_logs

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.lake import retry
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, bound_property_update, read_bound
from k2_ohlcv.lake.maintenance import orphan_files, partition_drops, snapshot_expiry
from k2_ohlcv.lake.maintenance.orphan_files import remove_orphans
from k2_ohlcv.lake.maintenance.partition_drops import PartitionsToDrop, drop_partitions
from k2_ohlcv.lake.maintenance.snapshot_expiry import expire_snapshots
from k2_ohlcv.lake.maintenance.table_files import RemovedFiles, TableFiles
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.daily_candles import LINE, put_candles, trades_of_days

#: Later than any snapshot that a test makes.
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def filled(lake: Lake) -> Lake:
    """Twenty days of candles, in two snapshots."""
    put_candles(lake, trades_of_days(10))
    put_candles(lake, trades_of_days(20)[30:])
    return lake


def load(lake: Lake) -> Callable[[], Table]:
    return lambda: lake.candles(MINUTE)


def look(table: Table) -> PartitionsToDrop:
    return PartitionsToDrop.find(table, LINE)


def dropped(lake: Lake) -> PartitionsToDrop:
    return drop_partitions(load(lake), look, EXPIRED_BEFORE)


def on_disk(lake: Lake) -> set[str]:
    return set(lakes.files_of(lake.candles(MINUTE)))


def assert_right(lake: Lake, some: list[Trade] | None = None) -> None:
    """The candles from the line on, at every snapshot readable, and the files that are needed there."""
    wanted = [c for c in aggregate(some or trades_of_days(20), MINUTE) if c.window_start >= LINE]
    assert lakes.read_candles(lake, MINUTE) == wanted
    table = lake.candles(MINUTE)
    for snapshot in table.snapshots():
        table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()


def test_a_line_moves_forward_only(filled: Lake) -> None:
    dropped(filled)
    table = filled.candles(MINUTE)
    assert read_bound(table, EXPIRED_BEFORE) == LINE
    assert bound_property_update(table, EXPIRED_BEFORE, LINE - DAY) == {}
    assert bound_property_update(table, EXPIRED_BEFORE, LINE) == {}
    assert bound_property_update(table, EXPIRED_BEFORE, LINE + DAY) == {
        EXPIRED_BEFORE: (LINE + DAY).isoformat()
    }


@pytest.mark.each_store
def test_what_expired_snapshots_alone_reached_is_removed_and_counted(filled: Lake) -> None:
    """And nothing else: the other files are those that were there before, and the commit's own metadata."""
    dropped(filled)
    sizes = lakes.files_of(filled.candles(MINUTE))
    before = set(sizes)
    done = expire_snapshots(load(filled), LATER)
    gone = before - on_disk(filled)
    assert done.snapshots == 2
    assert done.removed == RemovedFiles(len(gone), sum(sizes[path] for path in gone))
    assert sum(path.endswith(".parquet") for path in gone) == 10
    assert_right(filled)


@pytest.mark.each_store
def test_a_manifest_or_file_that_a_kept_snapshot_shares_stays(filled: Lake) -> None:
    table = filled.candles(MINUTE)
    table.manage_snapshots().create_tag(table.snapshots()[0].snapshot_id, "first").commit()
    dropped(filled)
    expire_snapshots(load(filled), LATER)
    table = filled.candles(MINUTE)
    assert len(table.snapshots()) == 2
    assert table.scan(snapshot_id=table.refs()["first"].snapshot_id).to_arrow().num_rows == 30
    assert_right(filled)


@pytest.mark.parametrize("when", ["after the look", "while committing"])
def test_a_tag_made_meanwhile_keeps_its_snapshot(
    filled: Lake, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Recomputed immediately before the commit; and in this catalog the commit itself is held to it."""
    dropped(filled)
    first = filled.candles(MINUTE).snapshots()[0].snapshot_id
    tag_in_between(filled, monkeypatch, when, first)
    done = expire_snapshots(load(filled), LATER)
    assert done.snapshots == 1
    assert filled.candles(MINUTE).scan(snapshot_id=first).to_arrow().num_rows == 30
    assert filled.candles(MINUTE).refs()["kept"].snapshot_id == first
    assert_right(filled)


def tag_in_between(lake: Lake, monkeypatch: pytest.MonkeyPatch, when: str, snapshot: int) -> None:
    def tag() -> None:
        monkeypatch.undo()
        lake.candles(MINUTE).manage_snapshots().create_tag(snapshot, "kept").commit()

    if when == "while committing":
        real = Transaction.commit_transaction

        def commit_transaction(self: Transaction) -> Table:
            tag()
            return real(self)

        monkeypatch.setattr(Transaction, "commit_transaction", commit_transaction)
    else:
        reached = orphan_files.files_only_referenced_by

        def only_reached_by(*args: object) -> set[str]:
            tag()
            return reached(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(snapshot_expiry, "files_only_referenced_by", only_reached_by)


def test_a_tag_that_a_catalog_lets_go_is_brought_back(filled: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a REST catalog may, which can't be asked to hold a commit to there being no other reference."""
    dropped(filled)
    first = filled.candles(MINUTE).snapshots()[0].snapshot_id
    tag_in_between(filled, monkeypatch, "while committing", first)
    with pytest.MonkeyPatch.context() as rest, capture_logs() as logged:
        rest.setattr(snapshot_expiry._NoNewRefs, "validate", lambda *_: None)
        expire_snapshots(load(filled), LATER)
    numbers = [s.sequence_number for s in filled.candles(MINUTE).snapshots()]
    assert filled.candles(MINUTE).metadata.last_sequence_number == max(n for n in numbers if n is not None)
    assert f"kept (snapshot {first})" in [entry.get("refs") for entry in logged]
    assert filled.candles(MINUTE).refs()["kept"].snapshot_id == first
    assert filled.candles(MINUTE).scan(snapshot_id=first).to_arrow().num_rows == 30
    assert_right(filled)


def test_other_writers_who_never_stop_are_reported(filled: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    real = partition_drops.commit_change

    def always_late(table: Table, change: TableCommit) -> Table:
        commit_change(filled.candles(MINUTE), TableCommit(properties={"note": "theirs"}))
        return real(table, change)

    monkeypatch.setattr(partition_drops, "commit_change", always_late)
    with pytest.raises(CommitConflictError, match="during each of 2 attempts of retention"):
        dropped(filled)
    assert lakes.read_candles(filled, MINUTE) == aggregate(trades_of_days(20), MINUTE)


class Killed(BaseException):
    """The process is gone."""


def killed(*_: object) -> None:
    raise Killed


def run(lake: Lake, now: datetime | None = None) -> None:
    """What retention does to a table."""
    dropped(lake)
    expire_snapshots(load(lake), LATER)
    remove_orphans(load(lake), now or datetime.now(UTC))


@pytest.mark.parametrize("calls", range(1, 9))
@pytest.mark.parametrize(
    "where",
    [
        "pyiceberg.table.Transaction.commit_transaction",
        "pyiceberg.table.Table._do_commit",
        "k2_ohlcv.lake.maintenance.snapshot_expiry.files_only_referenced_by",
        "k2_ohlcv.lake.maintenance.snapshot_expiry.remove_unreferenced",
        "k2_ohlcv.lake.maintenance.table_files.TableFiles._remove_file",
        "k2_ohlcv.lake.maintenance.table_files.TableFiles._remove_empty_folders",
    ],
)
def test_killed_anywhere_the_tables_read_and_the_next_run_finishes(
    filled: Lake, monkeypatch: pytest.MonkeyPatch, where: str, calls: int
) -> None:
    """With the very files left that a run without a kill leaves. Those of the dead run are old by then."""
    room, _, name = where.rpartition(".")
    owner = (
        pytest.importorskip(room)
        if room.startswith("k2_ohlcv.lake.maintenance.snapshot_expiry")
        else _owner(room)
    )
    real, count = getattr(owner, name), [0]

    def dies(*args: object, **options: object) -> object:
        count[0] += 1
        if count[0] == calls:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(owner, name, dies)
    try:
        run(filled)
    except Killed:
        table = filled.candles(MINUTE)
        assert lakes.read_candles(filled, MINUTE) in (
            aggregate(trades_of_days(20), MINUTE),
            aggregate(trades_of_days(20)[30:], MINUTE),
        )
        for snapshot in table.snapshots():
            table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()
    monkeypatch.undo()
    run(filled, datetime.now(UTC) + ORPHAN_AGE + timedelta(minutes=1))
    assert_right(filled)
    table = filled.candles(MINUTE)
    assert len(table.snapshots()) == 1
    parquet = {path for path in on_disk(filled) if path.endswith(".parquet")}
    assert parquet == set(lakes.list_data_files(table))


def _owner(name: str) -> object:
    return {
        "pyiceberg.table.Transaction": Transaction,
        "pyiceberg.table.Table": Table,
        "k2_ohlcv.lake.maintenance.table_files.TableFiles": TableFiles,
    }[name]


@pytest.mark.each_store
def test_a_removal_list_of_an_earlier_version_is_an_orphan(filled: Lake) -> None:
    """Such lists named what was about to be removed. Nothing reads them any more."""
    table = filled.candles(MINUTE)
    before = on_disk(filled)
    lakes.write_file(table, f"{table.location()}/metadata/k2-removal-0.json", b"[]")
    assert remove_orphans(load(filled), datetime.now(UTC)) == RemovedFiles()
    assert remove_orphans(
        load(filled), datetime.now(UTC) + ORPHAN_AGE + timedelta(minutes=1)
    ) == RemovedFiles(1, 2)
    assert on_disk(filled) == before


def test_a_location_owns_what_is_in_it_alone(filled: Lake, tmp_path: Path) -> None:
    table = filled.candles(MINUTE)
    location = TableFiles(table)
    inside = f"{table.location()}/data/x.parquet"
    assert location.is_inside(location.path_key(inside))
    assert location.is_inside(location.path_key(inside.removeprefix("file://")))
    for outside in [
        f"{table.location()}2/data/x.parquet",
        f"{table.location()}/../x.parquet",
        f"{table.location()}/data/../../../x.parquet",
        table.location(),
        "/",
        "s3://bucket/data/x.parquet",
    ]:
        assert not location.is_inside(location.path_key(outside)), outside
    target = tmp_path / "target.parquet"
    target.write_bytes(b"x")
    link = Path(inside.removeprefix("file://"))
    link.symlink_to(target)
    assert not location.is_inside(location.path_key(inside))
    assert (
        location.remove_files([location.path_key(inside), location.path_key(str(target))]) == RemovedFiles()
    )
    assert target.exists()


def test_files_of_writers_under_way_are_no_orphans(filled: Lake) -> None:
    """Unknown files are left for three days; known ones for ever, however old."""
    table = filled.candles(MINUTE)
    folder = Path(table.location().removeprefix("file://"))
    for path in on_disk(filled):
        os.utime(path.removeprefix("file://"), (0, 0))
    young, old = folder / "data" / "young.parquet", folder / "data" / "old.parquet"
    for written in (young, old):
        written.write_bytes(b"x" * 7)
    past = (datetime.now(UTC) - ORPHAN_AGE - timedelta(minutes=1)).timestamp()
    os.utime(old, (past, past))
    known = on_disk(filled) - {f"file://{old}"}
    assert remove_orphans(load(filled), datetime.now(UTC)) == RemovedFiles(1, 7)
    assert on_disk(filled) == known
    assert lakes.read_candles(filled, MINUTE) == aggregate(trades_of_days(20), MINUTE)


def test_what_a_commit_brings_while_orphans_are_looked_for_is_known(
    filled: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files may be as old as they like: the table is loaded after the look."""
    real = TableFiles.list_files

    def found(self: TableFiles) -> object:
        monkeypatch.undo()
        put_candles(filled, trades_of_days(25)[60:])
        for path in on_disk(filled):
            os.utime(path.removeprefix("file://"), (0, 0))
        return real(self)

    monkeypatch.setattr(TableFiles, "list_files", found)
    remove_orphans(load(filled), datetime.now(UTC))
    assert lakes.read_candles(filled, MINUTE) == aggregate(trades_of_days(25), MINUTE)


def test_a_catalog_in_this_process_holds_commits_to_our_requirement(lake: Lake) -> None:
    """What the race with a new tag is closed by; a REST catalog would refuse it."""
    assert isinstance(lake.catalog, MetastoreCatalog)


def test_snapshots_of_other_writers_are_no_obstacle(filled: Lake) -> None:
    """A rollback leaves snapshots that are no ancestors of the current one: they expire as well."""
    table = filled.candles(MINUTE)
    table_history.roll_back(table, table.snapshots()[0].snapshot_id)
    assert expire_snapshots(load(filled), LATER).snapshots == 1
    assert lakes.read_candles(filled, MINUTE) == aggregate(trades_of_days(10), MINUTE)
