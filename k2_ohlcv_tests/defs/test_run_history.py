"""Old runs leave Dagster's storage, on SQLite and Postgres. The newest results of each table stay."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.events import (
    AssetMaterializationPlannedData,
    DagsterEvent,
    JobFailureData,
    StepMaterializationData,
)
from dagster._core.events import DagsterEventType as Kind
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunTagsTable
from sqlalchemy import func, select

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.defs.run_history import PurgeReport, purge_run_history
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support.servers import postgres_server

DAYS = dg.DailyPartitionsDefinition("2024-01-01")
KEY = dg.AssetKey("small")
CHECK = dg.AssetCheckKey(KEY, "is_small")


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A Postgres server's URI."""
    with postgres_server() as uri:
        yield uri


@pytest.fixture(params=["sqlite", "postgres"])
def instance(home: Path, request: pytest.FixtureRequest) -> Iterator[dg.DagsterInstance]:
    """An instance on SQLite, or on Postgres, with files of captured output."""
    folder = home / "dagster"
    folder.mkdir()
    storage = {}
    if request.param == "postgres":
        storage = {"storage": {"postgres": {"postgres_url": request.getfixturevalue("postgres")}}}
    (folder / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}, **storage}))
    with dg.DagsterInstance.from_config(str(folder)) as opened:
        yield opened
        opened.wipe()


def record(instance: dg.DagsterInstance, run_id: str, kind: Kind, data: Any = None) -> None:
    event = DagsterEvent(kind.value, "job", event_specific_data=data, message="recorded")
    instance.report_dagster_event(event, run_id=run_id)


def run(instance: dg.DagsterInstance, day: str, *, fails: bool = False, **tags: str) -> str:
    """Record what a run of one partition and its check records. Returns the run's id."""
    run = instance.run_storage.add_run(dg.DagsterRun("job", tags=tags | {"dagster/partition": day}))
    planned = AssetMaterializationPlannedData(KEY, partition=day)
    record(instance, run.run_id, Kind.ASSET_MATERIALIZATION_PLANNED, planned)
    check_planned = AssetCheckEvaluationPlanned(asset_key=KEY, check_name="is_small")
    record(instance, run.run_id, Kind.ASSET_CHECK_EVALUATION_PLANNED, check_planned)
    record(instance, run.run_id, Kind.RUN_START)
    if fails:
        record(instance, run.run_id, Kind.RUN_FAILURE, JobFailureData(None))
        return run.run_id
    made = dg.AssetMaterialization(KEY, partition=day, tags={"a": "b"})
    record(instance, run.run_id, Kind.ASSET_MATERIALIZATION, StepMaterializationData(made))
    evaluation = dg.AssetCheckEvaluation(asset_key=KEY, check_name="is_small", passed=True)
    record(instance, run.run_id, Kind.ASSET_CHECK_EVALUATION, evaluation)
    record(instance, run.run_id, Kind.RUN_SUCCESS)
    return run.run_id


def purge(instance: dg.DagsterInstance, before: datetime | None = None, **limit: int) -> PurgeReport:
    """Purge the runs that ended before a time; by default all."""
    report = purge_run_history(instance, before or datetime.now(UTC) + timedelta(minutes=1), **limit)
    assert report is not None
    return report


def run_ids(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.get_run_ids())


def newest_runs(instance: dg.DagsterInstance) -> dict[str, str]:
    """The run of the newest materialization of each partition, as the UI finds it."""
    storage = instance.event_log_storage
    ids = storage.get_latest_storage_id_by_partition(KEY, Kind.ASSET_MATERIALIZATION)
    records = storage.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=KEY, storage_ids=[*ids.values()]), limit=100
    ).records
    return {str(record.partition_key): record.run_id for record in records}


def count(instance: dg.DagsterInstance, table: object, column: object) -> int:
    storage = instance.event_log_storage if column is not RunTagsTable.c.id else instance.run_storage
    if isinstance(storage, SqlEventLogStorage):
        with storage.index_connection() as connection:
            return int(connection.execute(select(func.count(column))).scalar() or 0)  # type: ignore[arg-type]
    assert isinstance(storage, SqlRunStorage)
    with storage.connect() as connection:
        return int(connection.execute(select(func.count(column))).scalar() or 0)  # type: ignore[arg-type]


def test_old_runs_leave_and_the_newest_results_stay(instance: dg.DagsterInstance) -> None:
    """Each partition keeps its newest materialization, and the check its newest evaluation, with their runs.

    The check has not run in the failed run. The UI shows that, so that run stays too.
    """
    for _ in range(3):
        first, second = run(instance, "2024-01-01"), run(instance, "2024-01-02")
    failed = run(instance, "2024-01-03", fails=True)
    assert len(run_ids(instance)) == 7
    report = purge(instance)
    assert (report.runs, report.runs_kept, report.runs_left) == (4, 3, 0)
    assert run_ids(instance) == {first, second, failed}
    assert newest_runs(instance) == {"2024-01-01": first, "2024-01-02": second}
    assert instance.get_materialized_partitions(KEY) == {"2024-01-01", "2024-01-02"}
    latest = instance.get_latest_materialization_event(KEY)
    assert latest is not None
    assert latest.run_id == second
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([CHECK])[CHECK]
    assert record.run_id == failed
    history = instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=10)
    assert [r.run_id for r in history] == [failed, second]


def test_a_second_purge_removes_nothing_and_runs_continue(instance: dg.DagsterInstance) -> None:
    run(instance, "2024-01-01")
    newest = run(instance, "2024-01-01")
    purge(instance)
    assert purge(instance) == PurgeReport(runs_kept=1)
    later = run(instance, "2024-01-01")
    assert run_ids(instance) == {newest, later}
    purge(instance)
    assert run_ids(instance) == {later}
    assert newest_runs(instance) == {"2024-01-01": later}


def test_recent_runs_and_runs_at_work_stay(instance: dg.DagsterInstance) -> None:
    old = run(instance, "2024-01-01")
    started = dg.DagsterRun("job", status=dg.DagsterRunStatus.STARTED)
    instance.run_storage.add_run(started)
    middle = datetime.now(UTC)
    recent = [run(instance, "2024-01-01") for _ in range(2)]
    assert purge(instance, middle).runs == 1
    assert run_ids(instance) == {started.run_id, *recent}
    assert instance.all_logs(recent[0])
    assert not instance.has_run(old)


def test_a_purge_is_bounded_and_begins_with_the_oldest(instance: dg.DagsterInstance) -> None:
    ids = [run(instance, "2024-01-01") for _ in range(4)]
    report = purge(instance, max_runs=2)
    assert (report.runs, report.runs_left) == (2, 1)
    assert run_ids(instance) == {*ids[2:]}


def test_tags_and_files_of_old_runs_leave_too(instance: dg.DagsterInstance, home: Path) -> None:
    """SQLite has a file of events a run. Captured output is in a folder a run."""
    old, newest = run(instance, "2024-01-01", odd="tag"), run(instance, "2024-01-01")
    output = Path(instance.storage_directory()) / old / "compute_logs" / "step.err"
    output.parent.mkdir(parents=True)
    output.write_text("captured")
    purge(instance)
    assert not [path for path in home.rglob("*") if old in str(path)]
    tags = count(instance, RunTagsTable, RunTagsTable.c.id)
    run_of_tags = instance.get_run_by_id(newest)
    assert run_of_tags is not None
    assert tags == len(run_of_tags.tags)


def test_events_outside_runs_leave_except_the_newest(instance: dg.DagsterInstance) -> None:
    """Commits of other writers are materializations outside runs, and the audit evaluates checks there."""
    for _ in range(3):
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition="2024-01-05"))
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=KEY, check_name="is_small", passed=False)
        )
    report = purge(instance)
    assert report.checks == 2
    assert report.events == 4
    assert newest_runs(instance) == {"2024-01-05": ""}
    (record,) = instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=10)
    assert record.evaluation is not None
    assert not record.evaluation.passed
    assert purge(instance).events == 0


def test_the_status_of_partitions_survives(instance: dg.DagsterInstance) -> None:
    """The UI computes the status from stored events, and keeps it in a cache."""
    from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

    for day in ("2024-01-01", "2024-01-02", "2024-01-02"):
        run(instance, day)

    def materialized() -> set[str]:
        value = get_and_update_asset_status_cache_value(instance, KEY, DAYS)
        assert value is not None
        return set(value.deserialize_materialized_partition_subsets(DAYS).get_partition_keys())

    with partition_loading_context(dynamic_partitions_store=instance):
        before = materialized()
        purge(instance)
        assert materialized() == before == {"2024-01-01", "2024-01-02"}
        instance.event_log_storage.wipe_asset_cached_status(KEY)
        assert materialized() == before


def test_the_files_of_the_command_lines_instance_leave(home: Path) -> None:
    """The storage of the embedded default shrinks by the files of its runs."""
    with open_instance(Settings.from_environ()) as instance:
        for _ in range(3):
            run(instance, "2024-01-01")
        folder = home / "dagster" / "history" / "runs"
        before = len([*folder.glob("*-*.db")])
        purge(instance)
        assert (before, len([*folder.glob("*-*.db")])) == (3, 0)
        with sqlite3.connect(folder / "index.db") as database:
            rows = database.execute("select count(*) from event_logs").fetchone()[0]
        database.close()
        assert rows <= 2
