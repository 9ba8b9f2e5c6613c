"""A table's location on any store: names of files are one thing, and what is removed is really gone."""

from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import Table
from structlog.testing import capture_logs

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance.orphan_files import remove_orphans
from k2_ohlcv.lake.maintenance.snapshot_expiry import expire_snapshots
from k2_ohlcv.lake.maintenance.table_files import RemovedFiles, TableFiles
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 20, tzinfo=UTC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
SOME = [make_trade(i, AT + timedelta(minutes=i), 1 + i, 1, market=("X", "Y")) for i in range(3)]
CHANGED = [*SOME, make_trade(9, AT, 9, 1, market=("X", "Y"))]

pytestmark = pytest.mark.each_store


@pytest.fixture
def table(lake: Lake) -> Table:
    """A candle table in two snapshots, of which the second took the first one's file away."""
    lakes.commit_candles(lake.writable_candles(MINUTE), MINUTE, SOME, datetime.now(UTC))
    return lakes.commit_candles(lake.candles(MINUTE), MINUTE, CHANGED, datetime.now(UTC))


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the store refuse to remove anything."""

    class Refusing:
        def __init__(self, files: object) -> None:
            self._files = files

        def __getattr__(self, name: str) -> object:
            return getattr(self._files, name)

        def delete_file(self, path: str) -> None:
            raise PermissionError(13, f"ACCESS_DENIED during DeleteObject of {path}")

    real = TableFiles._files.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(TableFiles, "_files", property(lambda self: Refusing(real(self))))


def test_every_file_that_is_found_is_named_as_the_table_names_it(table: Table) -> None:
    location = TableFiles(table)
    found = {one.key: one.size for one in location.list_files()}
    assert found == {location.path_key(path): size for path, size in lakes.files_of(table).items()}
    assert location.path_key(table.metadata_location) in found
    assert all(location.is_inside(key) for key in found)


def test_of_a_removed_file_the_bytes_are_said_once(table: Table) -> None:
    location = TableFiles(table)
    path = f"{table.location()}/data/old.parquet"
    lakes.write_file(table, path, b"x" * 7)
    key = location.path_key(path)
    assert location.size(key) == 7
    assert location.remove_files([key]) == RemovedFiles(1, 7)
    assert location.remove_files([key]) == RemovedFiles()
    assert path not in lakes.files_of(table)


def test_files_of_other_places_are_not_owned(table: Table) -> None:
    location, root = TableFiles(table), table.location()
    outside = [f"{root}2/data/x", f"{root}/../x", f"{root}/data/../../x", root, "/", "/etc/passwd"]
    outside += [root.replace("://", "://other-", 1) + "/data/x", "gs" + root[root.index(":") :] + "/data/x"]
    for path in outside:
        assert not location.is_inside(location.path_key(path)), path
    assert location.remove_files(location.path_key(path) for path in outside) == RemovedFiles()


def test_old_files_that_nothing_knows_go_and_all_others_stay(lake: Lake, table: Table) -> None:
    """Those that writers under way may be about to name are too young to go."""
    known = set(lakes.files_of(table))
    lakes.write_file(table, f"{table.location()}/data/lost.parquet", b"x" * 7)
    now = datetime.now(UTC)
    assert remove_orphans(lambda: lake.candles(MINUTE), now) == RemovedFiles()
    assert remove_orphans(
        lambda: lake.candles(MINUTE), now + ORPHAN_AGE + timedelta(minutes=1)
    ) == RemovedFiles(1, 7)
    assert set(lakes.files_of(table)) == known
    assert lakes.read_candles(lake, MINUTE) == aggregate(CHANGED, MINUTE)


def test_a_store_that_refuses_leaves_the_files_to_a_later_run(
    lake: Lake, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshots have expired by then, so the files are orphans. They go once they are old."""
    old = datetime.now(UTC) + ORPHAN_AGE + timedelta(minutes=1)
    with monkeypatch.context() as refusing, capture_logs() as logged:
        refuse(refusing)
        done = expire_snapshots(lambda: lake.candles(MINUTE), LATER)
        again = remove_orphans(lambda: lake.candles(MINUTE), old)
    assert (done.snapshots, done.removed.files, again.files) == (1, 0, 0)
    assert done.removed.refused == again.refused > 0
    assert [one["files"] for one in logged if one["event"] == "files could not be removed"]
    assert lakes.read_candles(lake, MINUTE) == aggregate(CHANGED, MINUTE)
    assert remove_orphans(lambda: lake.candles(MINUTE), old).files == done.removed.refused
    parquet = {path for path in lakes.files_of(table) if path.endswith(".parquet")}
    assert parquet == set(lakes.list_data_files(lake.candles(MINUTE)))
