"""The command `catalog restore`: dry run, apply, JSON, wrong use, and writers at work."""

import json
from pathlib import Path

import dagster as dg
import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.defs.dead_runs import process_tags
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.settings import Settings
from k2_ohlcv.sources.staging.temp_folder import open_temp_folder
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.command_line import call
from k2_ohlcv_tests.support.daily_candles import trades_of_days


@pytest.fixture
def lost(home: Path) -> Path:
    """A home with trades, whose catalog is deleted. Returns the deleted file."""
    lake = lakes.open_lake(home)
    lakes.add_trades(lake, trades_of_days(2))
    lake.catalog.close()
    (home / "catalog.db").unlink()
    return home / "catalog.db"


def tables(out: str) -> dict[str, dict[str, object]]:
    return {table["table"]: table for table in json.loads(out)["tables"]}


def test_the_dry_run_and_then_the_restore(lost: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "catalog", "restore")
    assert code == 0
    assert "1 tables would be restored. This was a dry run: --apply restores them." in out
    code, out, _ = call(capsys, "catalog", "restore", "--json")
    assert (code, json.loads(out)["applied"]) == (0, False)
    found = tables(out)
    assert len(found) == 7
    assert found[TRADES_TABLE]["action"] == "register"
    assert found[TRADES_TABLE]["rows"] == 6
    assert {name for name, table in found.items() if table["action"] == "absent"} == {*found} - {TRADES_TABLE}
    code, out, _ = call(capsys, "catalog", "restore", "--apply")
    assert code == 0
    assert "1 tables restored. Run k2-ohlcv refresh and k2-ohlcv validate next." in out
    code, out, _ = call(capsys, "catalog", "restore", "--apply")
    assert (code, "The catalog is unchanged." in out) == (0, True)
    code, out, _ = call(capsys, "status", "--json")
    assert json.loads(out)["trades"]["rows"] == 6


def test_an_empty_warehouse(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "catalog", "restore", "--apply")
    assert (code, "there is nothing to restore" in out) == (0, True), err


def test_a_table_that_needs_a_decision_exits_with_1(lost: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stdout has the whole result. Stderr names the table."""
    lake = lakes.open_lake(lost.parent)
    path = Path(lakes.add_trades(lake, trades_of_days(3)[-3:]).metadata_location.removeprefix("file://"))
    path.write_text("{")
    lake.catalog.close()
    code, out, err = call(capsys, "catalog", "restore", "--apply", "--json")
    assert code == 1
    assert tables(out)[TRADES_TABLE]["action"] == "refused"
    assert f"1 tables need a decision: {TRADES_TABLE}" in err


def test_help_and_wrong_arguments(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "catalog", "restore", "--help")
    assert code == 0
    assert all(text in out for text in ("Examples", "--apply", "--location", "--json"))
    assert not home.exists(), "help creates nothing"
    for arguments in (["restore", "--frobnicate"], ["restore", "extra"], ["drop"]):
        code, out, err = call(capsys, "catalog", *arguments)
        assert (code, out, "Traceback" in err) == (2, "", False)


def test_a_catalog_server_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lake, "open", lambda _: Lake(_Server()))  # type: ignore[arg-type]
    code, _, err = call(capsys, "catalog", "restore")
    assert (code, "the catalog k2 is not a SQL catalog" in err) == (2, True)


class _Server:
    """A catalog that is not SQL."""

    name = "k2"


def test_a_run_at_work_is_not_disturbed(lost: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of a living process refuses the restore. A run whose process was killed does not."""
    with open_instance(Settings.from_environ()) as instance:
        run = dg.DagsterRun("refresh", status=dg.DagsterRunStatus.STARTED, tags=process_tags())
        instance.run_storage.add_run(run)
        code, _, err = call(capsys, "catalog", "restore", "--apply")
        assert (code, f"1 runs are at work: refresh {run.run_id}" in err) == (2, True), err
        assert call(capsys, "catalog", "restore")[0] == 0, "a dry run disturbs nothing"
        instance.add_run_tags(run.run_id, {"k2/process-started": "1.00"})
        assert call(capsys, "catalog", "restore", "--apply")[0] == 0


def test_an_ingestion_at_work_is_not_disturbed(lost: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_temp_folder(lost.parent / "work"):
        code, _, err = call(capsys, "catalog", "restore", "--apply")
        assert (code, "an ingestion is at work" in err) == (2, True)
    assert call(capsys, "catalog", "restore", "--apply")[0] == 0
