"""Files that land: which are asked for and when, and what becomes of a run over them."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.defs import ingest_job
from k2_ohlcv.defs.sensors import landing as landing_sensor
from k2_ohlcv.defs.sensors import refresh
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support.landing import HEADER, Landing, read_trades, requested_files

# Dagster 1.13 reads a pydantic attribute that pydantic 2.14 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


@pytest.fixture
def landing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Landing]:
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    for name in ("K2_START_DATE", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    with open_instance(Settings.from_environ()) as instance:
        yield Landing(tmp_path, instance)


def test_a_file_is_left_until_it_has_stopped_growing(landing: Landing) -> None:
    """One look to see it, one to see that it is as it was."""
    assert "No file" in str(landing.look())
    landing.put("t.csv", HEADER)
    landing.put("copying.csv.part", HEADER)
    assert "1 files are new" in str(landing.look())
    landing.put("t.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    assert "1 files are new" in str(landing.look()), "it grew"
    asked = landing.look()
    assert requested_files(asked) == ["X/AB/t.csv"]


def test_files_are_ingested_once_and_again_when_they_change(landing: Landing) -> None:
    """Whatever their days; and each day that grew is materialized with its numbers."""
    landing.put("t.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a", "2023-01-01T01:00:00Z,1,1,b")
    landing.look()
    result = landing.run(landing.look())
    assert result.success
    assert read_trades(landing) == ["a", "b"]
    records = landing.instance.fetch_materializations(dg.AssetKey(TRADES_TABLE), limit=10).records
    rows = {
        r.partition_key: r.asset_materialization.metadata["dagster/partition_row_count"].value
        for r in records
        if r.asset_materialization
    }
    assert rows == {"2024-02-27": 1, "2023-01-01": 1}
    assert [landing.look(), landing.look()] == ["No file is new or changed."] * 2
    landing.put("t.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a", "2024-02-27T02:00:00Z,1,1,c")
    landing.look()
    assert landing.run(landing.look()).success
    assert read_trades(landing) == ["a", "b", "c"]


def test_a_bad_file_fails_once_and_holds_up_no_other(landing: Landing) -> None:
    """Its run fails and names it; it is tried again when it changes, and not before."""
    landing.put("bad.csv", "")
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.look()
    asked = landing.look()
    result = landing.run(asked)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "bad.csv" in failure.step_failure_data.user_failure_data.description
    assert "good.csv" not in failure.step_failure_data.user_failure_data.description
    assert read_trades(landing) == ["a"]
    assert [landing.look(), landing.look()] == ["No file is new or changed."] * 2
    landing.put("bad.csv", HEADER, "2024-02-27T02:00:00Z,1,1,b")
    landing.look()
    again = landing.look()
    assert requested_files(again) == ["X/AB/bad.csv"]
    assert landing.run(again).success
    assert read_trades(landing) == ["a", "b"]


def test_a_run_that_was_killed_is_asked_for_again(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never said that it was through: the same files under another key, after a pause."""
    landing.put("t.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.look()
    first = landing.look()
    assert isinstance(first, dg.RunRequest)
    run = dg.DagsterRun(
        job_name=ingest_job.INGEST_FILES_JOB, tags=first.tags, status=dg.DagsterRunStatus.STARTED
    )
    landing.instance.add_run(run)
    assert run.run_id in str(landing.look()), "one at a time"
    landing.instance.report_run_failed(run)
    assert "requested again at" in str(landing.look())
    monkeypatch.setattr(refresh, "_MIN_RETRY_DELAY", timedelta(0))
    again = landing.look()
    assert requested_files(again) == requested_files(first)
    assert again.run_key != first.run_key


def test_the_cursor_keeps_what_is_needed() -> None:
    memory = (
        landing_sensor.LandingCursor().update({"X/AB/a": "1-1", "X/AB/b": "2-2"}).mark_requested(["X/AB/a"])
    )
    assert landing_sensor.LandingCursor.from_cursor(memory.to_cursor()) == memory
    assert landing_sensor.LandingCursor.from_cursor(None) == landing_sensor.LandingCursor()
    gone = memory.update({"X/AB/b": "2-3"})
    assert {path: seen.asked for path, seen in gone.files.items()} == {"X/AB/b": False}


def test_a_tick_that_repeats_asks_once() -> None:
    """The key of a batch says which files in which state, and which attempt."""
    memory = landing_sensor.LandingCursor().update({"a": "1-1", "b": "2-2"})
    key = memory.mark_requested(["a", "b"]).batch
    assert key == memory.mark_requested(["a", "b"]).batch
    assert (
        len(
            {
                key,
                memory.mark_requested(["a"]).batch,
                memory.mark_requested(["a", "b"]).lost_files().mark_requested(["a", "b"]).batch,
            }
        )
        == 3
    )
