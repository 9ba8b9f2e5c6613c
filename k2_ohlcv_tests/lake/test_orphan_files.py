"""Orphan files: which unknown files are removed, and which files a table owns."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance.orphan_files import remove_orphans
from k2_ohlcv.lake.maintenance.table_files import RemovedFiles, TableFiles
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.daily_candles import (
    list_files,
    load_candles,
    put_candles,
    trades_of_days,
    when_orphans_are_old,
)


@pytest.mark.each_store
def test_a_removal_list_of_an_earlier_version_is_an_orphan(twenty_days: Lake) -> None:
    """Earlier versions listed files before their removal. No version reads such lists now."""
    table = twenty_days.candles(MINUTE)
    before = list_files(twenty_days)
    lakes.write_file(table, f"{table.location()}/metadata/k2-removal-0.json", b"[]")
    assert remove_orphans(load_candles(twenty_days), datetime.now(UTC)) == RemovedFiles()
    assert remove_orphans(load_candles(twenty_days), when_orphans_are_old()) == RemovedFiles(1, 2)
    assert list_files(twenty_days) == before


def test_a_location_owns_only_files_inside_it(twenty_days: Lake, tmp_path: Path) -> None:
    """Paths outside, relative paths and links are never removed."""
    table = twenty_days.candles(MINUTE)
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


def test_young_files_are_no_orphans(twenty_days: Lake) -> None:
    """Another writer may be about to commit them. Referenced files stay at any age."""
    table = twenty_days.candles(MINUTE)
    folder = Path(table.location().removeprefix("file://"))
    for path in list_files(twenty_days):
        os.utime(path.removeprefix("file://"), (0, 0))
    young_file, old_file = folder / "data" / "young.parquet", folder / "data" / "old.parquet"
    for path_written in (young_file, old_file):
        path_written.write_bytes(b"x" * 7)
    old_time = (datetime.now(UTC) - ORPHAN_AGE - timedelta(minutes=1)).timestamp()
    os.utime(old_file, (old_time, old_time))
    expected = list_files(twenty_days) - {f"file://{old_file}"}
    assert remove_orphans(load_candles(twenty_days), datetime.now(UTC)) == RemovedFiles(1, 7)
    assert list_files(twenty_days) == expected
    assert lakes.read_candles(twenty_days, MINUTE) == aggregate(trades_of_days(20), MINUTE)


def test_newly_committed_files_are_no_orphans(twenty_days: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is loaded after the listing, so age does not matter."""
    real = TableFiles.list_files

    def list_after_commit(self: TableFiles) -> object:
        monkeypatch.undo()
        put_candles(twenty_days, trades_of_days(25)[60:])
        for path in list_files(twenty_days):
            os.utime(path.removeprefix("file://"), (0, 0))
        return real(self)

    monkeypatch.setattr(TableFiles, "list_files", list_after_commit)
    remove_orphans(load_candles(twenty_days), datetime.now(UTC))
    assert lakes.read_candles(twenty_days, MINUTE) == aggregate(trades_of_days(25), MINUTE)
