"""Dagster's storage with open databases: Dagster's own storage reads what it wrote."""

import sqlite3
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.event_log import SqliteEventLogStorage

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.cli.dagster_storage import OpenEventLogStorage
from k2_ohlcv_tests.support import lakes

_DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")


def build_definitions() -> dg.Definitions:
    """An asset of 31 partitions, with a check and a job."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)

        @dg.asset(partitions_def=_DAYS, backfill_policy=dg.BackfillPolicy.single_run())
        def numbers(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
            return dg.MaterializeResult(metadata={"days": len(context.partition_keys)})

        @dg.asset_check(asset=numbers)
        def good() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=True, metadata={"examined": 3})

        return dg.Definitions([numbers], asset_checks=[good], jobs=[dg.define_asset_job("job")])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder, and no configuration of Dagster."""
    for name in ("DAGSTER_HOME", "DAGSTER_EVENT_BATCH_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def run_numbers(instance: dg.DagsterInstance) -> str:
    tags = {
        "dagster/asset_partition_range_start": "2024-01-01",
        "dagster/asset_partition_range_end": "2024-01-31",
    }
    return build_definitions().resolve_job_def("job").execute_in_process(instance=instance, tags=tags).run_id


def read_facts(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> dict[str, object]:
    """What the UI shows: the runs, the events of each, the partitions and the check."""
    runs = {run.run_id: run.status for run in instance.get_runs()}
    check = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("numbers"), "good"), limit=9
    )
    materialized = instance.fetch_materializations(dg.AssetKey("numbers"), limit=1000).records
    return {
        "statuses": [runs[run_id] for run_id in run_ids],
        "events": [
            [(e.dagster_event_type, e.step_key) for e in instance.all_logs(run_id)] for run_id in run_ids
        ],
        "partitions": sorted(str(record.partition_key) for record in materialized),
        "checks": [record.status.value for record in check],
    }


def test_dagsters_own_storage_reads_the_same_runs_and_events(home: Path) -> None:
    """The second run has a database that was made without reading the migrations again."""
    with open_instance(lakes.lake_settings(home)) as instance:
        assert isinstance(instance.event_log_storage, OpenEventLogStorage)
        run_ids = [run_numbers(instance), run_numbers(instance)]
        written = read_facts(instance, run_ids)
    with dg.DagsterInstance.local_temp(str(home / "dagster")) as plain:
        assert isinstance(plain.event_log_storage, SqliteEventLogStorage)
        assert read_facts(plain, run_ids) == written
    with dg.DagsterInstance.local_temp(str(home.parent)) as plain:
        own = read_facts(plain, [run_numbers(plain), run_numbers(plain)])
    assert written == own
    assert len(written["partitions"]) == 62  # type: ignore[arg-type] # two runs of 31 days
    versions = {read_version(home, name) for name in (*run_ids, "index")}
    assert len(versions) == 1


def read_version(home: Path, shard: str) -> object:
    with sqlite3.connect(home / "dagster" / "history" / "runs" / f"{shard}.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        return database.execute("SELECT version_num FROM alembic_version").fetchall()[0]


def test_a_batch_is_stored_whole_or_not_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller stores the events of a failed batch one by one, so none may be there already."""
    with open_instance(lakes.lake_settings(home)) as instance:
        run_id = run_numbers(instance)
        storage = instance.event_log_storage
        events = instance.all_logs(run_id)
        before = len(events)
        insert, calls = SqliteEventLogStorage.store_event, []

        def fail_third(self: SqliteEventLogStorage, event: Any) -> None:
            calls.append(event)
            if len(calls) == 3:
                raise OSError("no space left")
            insert(self, event)

        monkeypatch.setattr(SqliteEventLogStorage, "store_event", fail_third)
        with pytest.raises(OSError, match="no space"):
            storage.store_event_batch(events[:5])
        assert len(instance.all_logs(run_id)) == before
        storage.store_event_batch(events[:5])
        assert len(instance.all_logs(run_id)) == before + 5


def test_a_storage_that_the_user_configured_is_not_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "dagster"
    folder.mkdir(parents=True)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    classes = {"run_storage": "runs.SqliteRunStorage", "schedule_storage": "schedules.SqliteScheduleStorage"}
    classes["event_log_storage"] = "event_log.ConsolidatedSqliteEventLogStorage"
    lines = [
        f"{role}: {{module: dagster._core.storage.{module}, class: {name}, config: {{base_dir: {folder}}}}}"
        for role, (module, name) in ((role, path.split(".")) for role, path in classes.items())
    ]
    (folder / "dagster.yaml").write_text("\n".join(lines))
    with open_instance(lakes.lake_settings(home)) as instance:
        assert not isinstance(instance.event_log_storage, OpenEventLogStorage)
        assert type(instance.event_log_storage).__name__ == "ConsolidatedSqliteEventLogStorage"
