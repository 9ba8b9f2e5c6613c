"""Which metadata file a restore takes: torn files, incomplete snapshots, and commits that lost a race."""

from pathlib import Path

import pytest

from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.catalog_pointer import read_pointers, sql_catalog
from k2_ohlcv.lake.maintenance import metadata_files
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.operations.pointer_move import KEEP
from k2_ohlcv.operations.restore_catalog import restore_catalog
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.daily_candles import trades_of_days
from k2_ohlcv_tests.support.lost_catalog import (
    Reopen,
    actions,
    commit_days,
    contents,
    lose_a_race,
    lose_catalog,
    newest,
    restore,
)


@pytest.mark.each_store("files", "s3")
@pytest.mark.parametrize("content", [b"", b'{"format-version": 2, "table-u'], ids=["empty", "torn"])
def test_a_torn_newest_file_is_skipped_and_named(
    lake: Lake, reopen: Reopen, tmp_path: Path, content: bytes
) -> None:
    commit_days(lake, 0, 2)
    before = contents(lake)
    table = lake.trades()
    version = int(Path(newest(table)).name.split("-")[0]) + 1
    torn = f"{table.location()}/metadata/{version:05d}-{table.metadata.table_uuid}.metadata.json"
    lakes.write_file(table, torn, content)
    lose_catalog(lake, tmp_path)
    steps = restore(reopen())
    assert any(f"{Path(torn).name} is skipped: it is torn" in note for note in steps[TRADES_TABLE].notes)
    assert contents(reopen()) == before


@pytest.mark.each_store("files", "s3")
@pytest.mark.parametrize("lost", ["manifest list", "manifest", "data file"])
def test_a_file_whose_snapshot_is_incomplete_is_skipped(
    lake: Lake, reopen: Reopen, tmp_path: Path, lost: str
) -> None:
    commit_days(lake, 0, 2)
    before = sorted(lakes.all_trades(lake), key=str)
    lakes.add_trades(lake, trades_of_days(5)[-3:])
    table = lake.trades()
    snapshot = table.current_snapshot()
    assert snapshot is not None
    manifest = snapshot.manifests(table.io)[0]
    paths = {
        "manifest list": snapshot.manifest_list,
        "manifest": manifest.manifest_path,
        "data file": manifest.fetch_manifest_entry(table.io)[0].data_file.file_path,
    }
    table.io.delete(paths[lost])
    name = Path(newest(table)).name
    lose_catalog(lake, tmp_path)
    steps = restore(reopen())
    (note,) = [note for note in steps[TRADES_TABLE].notes if "skipped" in note]
    assert name in note
    assert "missing" in note
    assert sorted(lakes.all_trades(reopen()), key=str) == before


def test_a_torn_manifest_is_skipped(lake: Lake, reopen: Reopen, tmp_path: Path) -> None:
    commit_days(lake, 0, 1)
    before = sorted(lakes.all_trades(lake), key=str)
    lakes.add_trades(lake, trades_of_days(5)[-3:])
    table = lake.trades()
    path = table.current_snapshot().manifests(table.io)[0].manifest_path
    content = table.io.new_input(path).open().read()
    lakes.write_file(table, path, content[: len(content) // 2])
    lose_catalog(lake, tmp_path)
    steps = restore(reopen())
    assert any("torn" in note for note in steps[TRADES_TABLE].notes)
    assert sorted(lakes.all_trades(reopen()), key=str) == before


@pytest.mark.parametrize("evidence", ["log", "watermark", "catalog", "clean-up"])
def test_a_file_of_a_lost_commit_is_not_taken(
    lake: Lake, reopen: Reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evidence: str
) -> None:
    """A later commit, a candle table that read the trades, or the catalog itself shows the winner.

    So does the clean-up of the loser.
    """
    commit_days(lake, 0, 2)
    lost = lose_a_race(lake, monkeypatch, killed=evidence != "clean-up")
    before, name = contents(lake), newest(lake.trades())
    if evidence == "log":
        # A later commit whose snapshot is incomplete: both rivals are candidates.
        lakes.add_trades(lake, trades_of_days(40)[-3:])
        lake.trades().io.delete(lake.trades().current_snapshot().manifest_list)
    if evidence == "watermark":
        lakes.set_watermark(lake, MINUTE, lake.trades().metadata.current_snapshot_id or 0)
    if evidence == "catalog":
        assert actions(reopen()) == (KEEP, KEEP)
    else:
        lose_catalog(lake, tmp_path)
        steps = restore(reopen())
        assert steps[TRADES_TABLE].after == name
        assert steps[TRADES_TABLE].after != lost
        assert any(Path(lost).name in note for note in steps[TRADES_TABLE].notes)
    assert contents(reopen()) == before


def test_without_evidence_the_first_of_two_rivals_is_taken_and_said(
    lake: Lake, reopen: Reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_days(lake, 0, 2)
    lost = lose_a_race(lake, monkeypatch)
    winner = newest(lake.trades())
    lose_catalog(lake, tmp_path)
    steps = restore(reopen())
    (note,) = [note for note in steps[TRADES_TABLE].notes if "same version" in note]
    assert "nothing tells which one was committed" in note
    assert "ingest their files again" in note
    assert Path(lost).name in note
    assert steps[TRADES_TABLE].after in {lost, winner}
    assert len(lakes.all_trades(reopen())) == 9


def test_an_outage_is_no_torn_file(
    lake: Lake, reopen: Reopen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the store ends the restore. It never makes an older file the newest."""
    commit_days(lake, 0, 2)
    lose_catalog(lake, tmp_path)
    lost = reopen()

    def fail(*_: object) -> None:
        raise OSError("connection reset")

    monkeypatch.setattr(metadata_files, "read_metadata", fail)
    with pytest.raises(OSError, match="connection reset"):
        restore_catalog(lost, apply=True)
    assert read_pointers(sql_catalog(lost.catalog)) == {}
