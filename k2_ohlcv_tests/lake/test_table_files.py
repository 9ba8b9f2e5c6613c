"""A table's location on any store: path keys, ownership and removal of files."""

from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import Table
from structlog.testing import capture_logs

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance.orphan_files import remove_orphans
from k2_ohlcv.lake.maintenance.snapshot_expiry import expire_snapshots
from k2_ohlcv.lake.maintenance.table_files import RemovedFiles, TableFiles
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.daily_candles import FAR_FUTURE, load_candles, when_orphans_are_old
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 20, tzinfo=UTC)
TRADES = [make_trade(i, AT + timedelta(minutes=i), 1 + i, 1, market=("X", "Y")) for i in range(3)]
CHANGED = [*TRADES, make_trade(9, AT, 9, 1, market=("X", "Y"))]

pytestmark = pytest.mark.each_store


@pytest.fixture
def table(lake: Lake) -> Table:
    """A candle table of two snapshots, of which the second removed the first one's file."""
    lakes.commit_candles(lake.writable_candles(MINUTE), MINUTE, TRADES, datetime.now(UTC))
    return lakes.commit_candles(lake.candles(MINUTE), MINUTE, CHANGED, datetime.now(UTC))


def refuse_removals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, files: object) -> None:
            self._files = files

        def __getattr__(self, name: str) -> object:
            return getattr(self._files, name)

        def delete_file(self, path: str) -> None:
            raise PermissionError(13, f"ACCESS_DENIED during DeleteObject of {path}")

    real = TableFiles._files.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(TableFiles, "_files", property(lambda self: Refusing(real(self))))


def test_listed_files_have_the_keys_of_the_tables_paths(table: Table) -> None:
    """Listing and metadata give one key per file."""
    location = TableFiles(table)
    listed = {file.key: file.size for file in location.list_files()}
    assert listed == {location.path_key(path): size for path, size in lakes.files_of(table).items()}
    assert location.path_key(table.metadata_location) in listed
    assert all(location.is_inside(key) for key in listed)


def test_the_bytes_of_a_removed_file_are_counted_once(table: Table) -> None:
    """A second removal counts nothing."""
    location = TableFiles(table)
    path = f"{table.location()}/data/old.parquet"
    lakes.write_file(table, path, b"x" * 7)
    key = location.path_key(path)
    assert location.size(key) == 7
    assert location.remove_files([key]) == RemovedFiles(1, 7)
    assert location.remove_files([key]) == RemovedFiles()
    assert path not in lakes.files_of(table)


def test_files_outside_the_location_are_not_owned(table: Table) -> None:
    """They are never removed."""
    location, root = TableFiles(table), table.location()
    outside = [f"{root}2/data/x", f"{root}/../x", f"{root}/data/../../x", root, "/", "/etc/passwd"]
    outside += [root.replace("://", "://other-", 1) + "/data/x", "gs" + root[root.index(":") :] + "/data/x"]
    for path in outside:
        assert not location.is_inside(location.path_key(path)), path
    assert location.remove_files(location.path_key(path) for path in outside) == RemovedFiles()


def test_old_orphans_are_removed_and_other_files_stay(lake: Lake, table: Table) -> None:
    """Young unknown files may belong to a writer that has not committed yet."""
    expected = set(lakes.files_of(table))
    lakes.write_file(table, f"{table.location()}/data/lost.parquet", b"x" * 7)
    assert remove_orphans(load_candles(lake), datetime.now(UTC)) == RemovedFiles()
    assert remove_orphans(load_candles(lake), when_orphans_are_old()) == RemovedFiles(1, 7)
    assert set(lakes.files_of(table)) == expected
    assert lakes.read_candles(lake, MINUTE) == aggregate(CHANGED, MINUTE)


def test_refused_removals_are_repeated(lake: Lake, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshots have expired, so the files are orphans. A later run removes them once they are old."""
    old = when_orphans_are_old()
    with monkeypatch.context() as refusing, capture_logs() as logged:
        refuse_removals(refusing)
        expiry = expire_snapshots(load_candles(lake), FAR_FUTURE)
        orphans = remove_orphans(load_candles(lake), old)
    assert (expiry.snapshots, expiry.removed.files, orphans.files) == (1, 0, 0)
    assert expiry.removed.refused == orphans.refused > 0
    assert [entry["files"] for entry in logged if entry["event"] == "files could not be removed"]
    assert lakes.read_candles(lake, MINUTE) == aggregate(CHANGED, MINUTE)
    assert remove_orphans(load_candles(lake), old).files == expiry.removed.refused
    assert lakes.list_parquet_files(table) == set(lakes.list_data_files(lake.candles(MINUTE)))
