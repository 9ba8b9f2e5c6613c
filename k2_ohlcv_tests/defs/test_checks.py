"""Asset checks in Dagster: their evaluations, their failures, and failures of earlier runs."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from k2_ohlcv.definitions import build_definitions
from k2_ohlcv.defs import jobs
from k2_ohlcv.defs.retention_checks import RETENTION_LIMIT_CHECK
from k2_ohlcv.domain.timeframe import Grain, Timeframe, find_timeframe
from k2_ohlcv.frames.check_list import CHECKS
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations import plan_run
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade

HOUR = find_timeframe("1h")
DAILY = jobs.REBUILD_JOB[Grain.DAY]
DAYS = ("2024-02-27", "2024-02-28", "2024-02-29")


@pytest.fixture
def lake(home: Path) -> Lake:
    lake = lakes.open_lake(home)
    moments = [datetime(2024, 2, day, hour, tzinfo=UTC) for day in (27, 28, 29) for hour in (1, 2)]
    lakes.add_trades(lake, [make_trade(i, at, 10, 1, market=("X", "Y")) for i, at in enumerate(moments)])
    return lake


def run(instance: dg.DagsterInstance, first: str, last: str | None = None) -> dg.ExecuteInProcessResult:
    tags = {"k2/interactive": "true"}
    if last:
        tags |= {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    job = build_definitions(Settings.from_environ()).resolve_job_def(DAILY)
    return job.execute_in_process(
        instance=instance,
        partition_key=None if last else first,
        asset_selection=[dg.AssetKey(HOUR.table)],
        tags=tags,
        raise_on_error=False,
    )


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The evaluations of the candle checks. A retention check runs beside them and is left out."""
    evaluated = result.get_asset_check_evaluations()
    return {e.check_name: e for e in evaluated if e.check_name != RETENTION_LIMIT_CHECK}


def break_first_day(lake: Lake) -> None:
    table = lake.candles(HOUR)
    first = min(table.scan().plan_files(), key=lambda t: t.file.file_path)
    wrong = pl.col("vwap") + 5
    table_history.rewrite_files(
        table, [first], lambda rows: rows.with_columns(wrong.cast(pl.Decimal(18, 8)).alias("vwap"))
    )


def test_a_run_evaluates_every_check_over_its_partitions(lake: Lake, instance: dg.DagsterInstance) -> None:
    result = run(instance, DAYS[0], DAYS[2])
    assert result.success
    checks = evaluations(result)
    assert list(checks) == [check.name for check in CHECKS]
    assert all(e.passed for e in checks.values())
    assert {e.blocking for e in checks.values()} == {True, False}
    assert checks["reconciles_with_trades"].metadata["windows_examined"].value == 6


def test_a_check_stays_failed_until_every_partition_passes(lake: Lake, instance: dg.DagsterInstance) -> None:
    """A run on one day does not hide the failure of another day."""
    assert run(instance, DAYS[0], DAYS[2]).success
    break_first_day(lake)
    _evaluate(instance, DAYS[0])
    again = run(instance, DAYS[2])
    assert not again.success
    checks = evaluations(again)
    assert [name for name, e in checks.items() if not e.passed] == ["vwap_bounds"]
    assert checks["vwap_bounds"].metadata["partitions"].value == DAYS[0]
    assert checks["vwap_bounds"].severity == dg.AssetCheckSeverity.ERROR
    assert checks["vwap_bounds"].description == "2 of 4 fail"
    assert "| symbol |" in checks["vwap_bounds"].metadata["rows"].value
    repaired = run(instance, DAYS[0])
    assert repaired.success
    assert all(e.passed for e in evaluations(repaired).values())
    assert run(instance, DAYS[2]).success


def _evaluate(instance: dg.DagsterInstance, key: str) -> None:
    """Run only the checks, over one partition, as the checks page of the UI does."""
    definitions = build_definitions(Settings.from_environ())
    keys = [dg.AssetCheckKey(dg.AssetKey(HOUR.table), check.name) for check in CHECKS]
    job = dg.define_asset_job("only_checks", dg.AssetSelection.checks(*keys))
    resolved = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).resolve_job_def("only_checks")
    result = resolved.execute_in_process(
        instance=instance, raise_on_error=False, tags={"dagster/partition": key}
    )
    assert not evaluations(result)["vwap_bounds"].passed


def test_a_check_runs_by_itself(lake: Lake, instance: dg.DagsterInstance) -> None:
    """The Execute button of the UI exists only for checks that run without other checks."""
    assert run(instance, DAYS[0], DAYS[2]).success
    key = dg.AssetCheckKey(dg.AssetKey(HOUR.table), "vwap_bounds")
    definitions = build_definitions(Settings.from_environ())
    graph = definitions.get_repository_def().asset_graph
    assert graph.get_execution_set_asset_and_check_keys(key) == {key}
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.get_subset(asset_check_selection={key}).execute_in_process(instance=instance)
    assert list(evaluations(result)) == ["vwap_bounds"]


def break_computed_vwap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every computed vwap higher than the high price, so that the invariants refuse the window."""
    real = plan_run.candles_from_windows

    def broken(windows: pa.Table, timeframe: Timeframe) -> tuple[pl.DataFrame, pl.DataFrame]:
        computed, refused = real(windows, timeframe)
        return computed.with_columns(vwap=pl.col("high_price") + 1), refused

    monkeypatch.setattr(plan_run, "candles_from_windows", broken)


def test_windows_that_fail_an_invariant_fail_the_check_of_its_name(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_computed_vwap(monkeypatch)
    result = run(instance, DAYS[0])
    assert not result.success
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["windows_refused"].value == 2
    assert lake.candles(HOUR).current_snapshot() is None
    assert {name for name, e in evaluations(result).items() if not e.passed} == {"vwap_bounds"}
    key = dg.AssetCheckKey(dg.AssetKey(HOUR.table), "vwap_bounds")
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.evaluation is not None
    assert not record.evaluation.passed
    assert record.evaluation.blocking
    assert record.evaluation.metadata["failures"].value == 2
    description = record.evaluation.description or ""
    assert description.startswith("2 fail; refused before the commit, and not stored: X Y")
    assert "X Y 2024-02-" in description
    again = evaluations(run(instance, DAYS[0]))["vwap_bounds"]
    assert again.metadata["failures"].value == 2, "each window once, although the partition failed before"


def test_a_refused_window_does_not_hide_an_earlier_failure(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(instance, DAYS[0], DAYS[2]).success
    break_first_day(lake)
    _evaluate(instance, DAYS[0])
    with monkeypatch.context() as patched:
        break_computed_vwap(patched)
        assert not run(instance, DAYS[1]).success
    again = run(instance, DAYS[2])
    assert not again.success
    assert evaluations(again)["vwap_bounds"].metadata["partitions"].value == f"{DAYS[0]}, {DAYS[1]}"
