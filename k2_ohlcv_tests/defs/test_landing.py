"""The landing sensor: which files it requests and when, and runs over these files."""

from datetime import timedelta

import dagster as dg
import pytest

from k2_ohlcv.defs import ingest_job
from k2_ohlcv.defs.sensors import landing as landing_sensor
from k2_ohlcv.defs.sensors import refresh
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv_tests.support.landing import HEADER, Landing, read_trades, requested_files


def test_a_file_is_requested_when_it_has_stopped_growing(landing: Landing) -> None:
    """The first tick sees the file. The second one requests it if the file is unchanged."""
    assert "No file" in str(landing.look())
    landing.put("t.csv", HEADER)
    landing.put("copying.csv.part", HEADER)
    assert "1 files are new" in str(landing.look())
    landing.put("t.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    assert "1 files are new" in str(landing.look()), "it grew"
    request = landing.look()
    assert requested_files(request) == ["X/AB/t.csv"]


def test_files_are_ingested_once_and_again_when_they_change(landing: Landing) -> None:
    """Each day that got trades is materialized with its counts."""
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


def test_a_bad_file_fails_once_and_other_files_are_ingested(landing: Landing) -> None:
    """The run fails with the name of the bad file. The file is tried again only when it changes."""
    landing.put("bad.csv", "")
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.look()
    request = landing.look()
    result = landing.run(request)
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


def test_the_files_of_a_killed_run_are_requested_again(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run did not report success. After a pause its files are requested under another run key."""
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


def test_the_cursor_stores_the_files_of_the_folder() -> None:
    stored = (
        landing_sensor.LandingCursor().update({"X/AB/a": "1-1", "X/AB/b": "2-2"}).mark_requested(["X/AB/a"])
    )
    assert landing_sensor.LandingCursor.from_cursor(stored.to_cursor()) == stored
    assert landing_sensor.LandingCursor.from_cursor(None) == landing_sensor.LandingCursor()
    changed = stored.update({"X/AB/b": "2-3"})
    assert {path: state.asked for path, state in changed.files.items()} == {"X/AB/b": False}


def test_a_repeated_tick_has_the_same_run_key() -> None:
    """The key of a batch depends on its files, their states and the attempt."""
    stored = landing_sensor.LandingCursor().update({"a": "1-1", "b": "2-2"})
    key = stored.mark_requested(["a", "b"]).batch
    assert key == stored.mark_requested(["a", "b"]).batch
    fewer_files = stored.mark_requested(["a"]).batch
    next_attempt = stored.mark_requested(["a", "b"]).lost_files().mark_requested(["a", "b"]).batch
    assert len({key, fewer_files, next_attempt}) == 3
