"""The retention and audit jobs: their schedules, drops at retention, and the partitions of an audit."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from k2_ohlcv.definitions import build_definitions
from k2_ohlcv.defs import schedules
from k2_ohlcv.defs.retention_checks import RETENTION_LIMIT_CHECK
from k2_ohlcv.defs.run_history import PurgeReport
from k2_ohlcv.defs.schedules import AUDIT_JOB, RETENTION_JOB, RetentionConfig, audit_scope
from k2_ohlcv.domain.intervals import DAY, coalesce
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade

HOUR, MINUTE = find_timeframe("1h"), find_timeframe("1m")
FIRST = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def lake(home: Path) -> Lake:
    """A hundred days with one trade each."""
    lake = lakes.open_lake(home)
    lakes.add_trades(lake, [make_trade(i, FIRST + i * DAY, 10, 1, market=("X", "Y")) for i in range(100)])
    with open_engine(lakes.lake_settings(home)) as engine:
        for timeframe in (MINUTE, HOUR):
            refresh(lake, engine, timeframe)
    return lake


def run(instance: dg.DagsterInstance, name: str, **config: object) -> dg.ExecuteInProcessResult:
    job = build_definitions(Settings.from_environ()).resolve_job_def(name)
    return job.execute_in_process(
        instance=instance,
        run_config={"ops": {"apply_retention": {"config": config}}} if config else None,
        tags={"k2/interactive": "true"},
        raise_on_error=False,
    )


def double_volume(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns((pl.col("volume") * 2).cast(pl.Decimal(29, 8)))


def test_both_jobs_have_a_running_schedule() -> None:
    schedules = build_definitions(Settings.from_environ({})).schedules or []
    assert {s.job_name for s in schedules if isinstance(s, dg.ScheduleDefinition)} == {
        RETENTION_JOB,
        AUDIT_JOB,
    }
    assert all(s.default_status is dg.DefaultScheduleStatus.RUNNING for s in schedules)


def test_the_retention_job_drops_candles_past_their_retention(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    """Ages are measured from the newest trade. Ten days of 1m are older than its 90 days of retention."""
    assert run(instance, RETENTION_JOB, apply=False).success
    assert len(lakes.read_candles(lake, MINUTE)) == 100
    assert run(instance, RETENTION_JOB, apply=True).success
    remaining = lakes.read_candles(lake, MINUTE)
    oldest = FIRST + 99 * DAY - MINUTE.default_retention - DAY
    assert len(remaining) == len([c for c in remaining if c.window_start >= oldest]) < 100
    assert len(lakes.read_candles(lake, HOUR)) == 100


def test_the_audit_finds_damage_and_names_its_partition(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert run(instance, AUDIT_JOB).success
    table = lake.candles(HOUR)
    newest = max(table.scan().plan_files(), key=lambda t: t.file.file_path)
    table_history.rewrite_files(table, [newest], double_volume)
    result = run(instance, AUDIT_JOB)
    assert not result.success
    key = dg.AssetCheckKey(dg.AssetKey(HOUR.table), "reconciles_with_trades")
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.evaluation is not None
    assert not record.evaluation.passed
    assert record.evaluation.metadata["partitions"].value == "2024-04-09"


def test_the_audit_checks_failed_partitions_again(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that failed is checked again in the next night, although other partitions are due."""
    oldest = min(lake.candles(HOUR).scan().plan_files(), key=lambda t: t.file.file_path)
    table_history.rewrite_files(lake.candles(HOUR), [oldest], double_volume)
    for first in (0, 50):
        due = [Grain.DAY.partition(FIRST + i * DAY) for i in range(first, first + 2)]
        monkeypatch.setattr(schedules, "audit_scope", lambda *_, due=due: due)
        assert not run(instance, AUDIT_JOB).success
    key = dg.AssetCheckKey(dg.AssetKey(HOUR.table), "reconciles_with_trades")
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.evaluation is not None
    assert record.evaluation.metadata["partitions"].value == "2024-01-01"
    assert record.evaluation.metadata["windows_examined"].value == 3


def test_thirty_nights_of_audits_check_every_partition(lake: Lake) -> None:
    """Each night checks the newest days too. A budget limits a night's share, but never to nothing."""
    nights = [audit_scope(lake, MINUTE, datetime(2024, 5, 1, tzinfo=UTC) + i * DAY) for i in range(30)]
    checked = Grain.DAY.partitions(i for night in nights for i in night)
    assert len(checked) == 100
    assert all(night[-1].end - night[-1].start >= timedelta(days=7) for night in nights)
    least = audit_scope(lake, MINUTE, datetime(2024, 5, 1, tzinfo=UTC), budget=0)
    assert len(Grain.DAY.partitions(coalesce(least))) in {7, 8}


def evaluations(instance: dg.DagsterInstance, table: str) -> list[dg.AssetCheckEvaluation]:
    """The evaluations of the retention limit check of a table, newest first."""
    key = dg.AssetCheckKey(dg.AssetKey(table), RETENTION_LIMIT_CHECK)
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    return [record.evaluation for record in records if record.evaluation is not None]


def test_a_first_scheduled_run_holds_back_a_large_drop(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Nine days of 1m are due and none is dropped. A failed check names the trade and the command."""
    assert run(instance, RETENTION_JOB).success
    assert len(lakes.read_candles(lake, MINUTE)) == 100
    (failed,) = evaluations(instance, MINUTE.table)
    assert not failed.passed
    assert failed.metadata["partitions_held"].value == 9
    for text in ("trade 99 of X Y at 2024-04-09 12:00:00", "k2-ohlcv retention --apply", "apply: true"):
        assert text in str(failed.description)
    assert [e.passed for e in evaluations(instance, HOUR.table)] == [True]
    assert run(instance, RETENTION_JOB, apply=True).success
    assert len(lakes.read_candles(lake, MINUTE)) == 91
    assert [e.passed for e in evaluations(instance, MINUTE.table)] == [True, False]


def test_a_stray_trade_of_today_drops_no_history(lake: Lake, instance: dg.DagsterInstance) -> None:
    """The drop is held back each night, until a user applies it."""
    assert run(instance, RETENTION_JOB, apply=True).success
    before = lakes.read_candles(lake, MINUTE)
    stray = make_trade("stray", datetime.now(UTC), 10, 1, market=("OTHER", "AB"))
    lakes.add_trades(lake, [stray])
    for _ in range(3):
        assert run(instance, RETENTION_JOB).success
        assert lakes.read_candles(lake, MINUTE) == before
        newest = evaluations(instance, MINUTE.table)[0]
        assert not newest.passed
        assert "trade stray of OTHER AB at" in str(newest.description)
    definitions = build_definitions(Settings.from_environ())
    key = dg.AssetCheckKey(dg.AssetKey(MINUTE.table), RETENTION_LIMIT_CHECK)
    by_hand = dg.define_asset_job("by_hand", selection=dg.AssetSelection.checks(key))
    with_check = dg.Definitions.merge(definitions, dg.Definitions(jobs=[by_hand]))
    result = with_check.resolve_job_def("by_hand").execute_in_process(instance=instance)
    assert [e.passed for e in result.get_asset_check_evaluations()] == [False]
    assert run(instance, RETENTION_JOB, apply=True).success
    assert lakes.read_candles(lake, MINUTE) == []
    assert evaluations(instance, MINUTE.table)[0].passed


def test_the_retention_job_purges_old_runs(
    home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs older than K2_DAGSTER_KEPT are purged. A dry run and the setting `off` purge none."""
    calls: list[datetime] = []

    def purge(_: dg.DagsterInstance, before: datetime) -> PurgeReport:
        calls.append(before)
        return PurgeReport(runs=3)

    monkeypatch.setattr(schedules, "purge_run_history", purge)
    monkeypatch.setenv("K2_DAGSTER_KEPT", "2d")
    assert run(instance, RETENTION_JOB, apply=False).success
    assert calls == []
    assert run(instance, RETENTION_JOB).success
    assert timedelta(0) <= datetime.now(UTC) - 2 * DAY - calls[0] < timedelta(minutes=30)
    monkeypatch.setenv("K2_DAGSTER_KEPT", "off")
    assert run(instance, RETENTION_JOB).success
    assert len(calls) == 1


def test_the_schedule_runs_within_the_limit() -> None:
    """The schedule launches the job without a config. By default the job keeps the limit."""
    assert RetentionConfig().apply is None
    (schedule,) = [
        s for s in build_definitions(Settings.from_environ({})).schedules or [] if s.name == "retention_daily"
    ]
    assert isinstance(schedule, dg.ScheduleDefinition)
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2024, 5, 1, 2, 40, tzinfo=UTC))
    (request,) = schedule.evaluate_tick(context).run_requests or []
    assert request.run_config == {}
