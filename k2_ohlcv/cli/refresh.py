"""`k2-ohlcv refresh`: runs the refresh job of each stale table in this process."""

import time
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from k2_ohlcv.cli.console import Console, ProgressSteps, table
from k2_ohlcv.cli.light_imports import import_pyarrow
from k2_ohlcv.domain.intervals import day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe
from k2_ohlcv.domain.window_counts import WindowCounts

if TYPE_CHECKING:
    import dagster as dg

    from k2_ohlcv.cli.dagster_runs import RunResult
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.lake.metadata.lag import TableLag


def refresh_tables(console: Console, name: str, *, explain: bool) -> None:
    """Refresh candle tables and show the result, or only the plan.

    Args:
        console: the output.
        name: a timeframe, or `all`.
        explain: show what a refresh would do and why, and do nothing.

    Raises:
        RunFailedError: some runs failed. All other tables are refreshed.
    """
    timeframes = TIMEFRAMES if name == "all" else (find_timeframe(name),)
    if explain:
        _explain(console, timeframes)
        return
    began = time.monotonic()
    with console.progress("refreshing", total=len(timeframes)) as steps:
        tables = _run_refreshes(console, timeframes, steps)
    run_ids = [table["run_id"] for table in tables if table["run_id"]]
    seconds = round(time.monotonic() - began, 3)
    console.print_json({"tables": tables, "run_ids": run_ids, "seconds": seconds})
    console.print_text(_result_table(tables))
    if not run_ids:
        console.print_text(f"All tables are up to date: nothing to do. {seconds:.1f} s.")


def _explain(console: Console, timeframes: Sequence[Timeframe]) -> None:
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.operations.reconcile import preview_refresh

    lake = Lake.open(console.settings)
    plans = [preview_refresh(lake, timeframe) for timeframe in timeframes]
    console.print_json({"tables": [plan.as_json() for plan in plans]})
    for plan in plans:
        console.print_text(*plan.lines())


def _run_refreshes(
    console: Console, timeframes: Sequence[Timeframe], steps: ProgressSteps
) -> list[dict[str, Any]]:
    steps.start_step("measuring lag")
    import_pyarrow()
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.lake.metadata.lag import TableLag

    lake = Lake.open(console.settings)
    lags = [TableLag.measure(lake, timeframe) for timeframe in timeframes]
    if any(lag.is_stale for lag in lags):
        return _refresh_stale(console, lake, lags, steps)
    return [_skip_table(lake, lag, steps) for lag in lags]


def _refresh_stale(
    console: Console, lake: "Lake", lags: Sequence["TableLag"], steps: ProgressSteps
) -> list[dict[str, Any]]:
    """Run the refresh jobs of the stale tables. A failure of one table does not stop the others."""
    from k2_ohlcv.cli.dagster_instance import open_instance
    from k2_ohlcv.cli.dagster_runs import RunFailedError
    from k2_ohlcv.definitions import build_definitions

    definitions = build_definitions(console.settings)
    tables, failures = [], []
    with open_instance(console.settings) as instance:
        for lag in lags:
            name = lag.timeframe.table
            if not lag.is_stale:
                tables.append(_skip_table(lake, lag, steps))
                continue
            steps.start_step(name)
            try:
                run = _run_refresh(definitions, instance, lag)
            except RunFailedError as error:
                failures.append(str(error))
                steps.finish_step(f"{name}: failed")
                continue
            report = next(part for part in run.materialized[name] if "refresh" in part)["refresh"]
            tables.append(_run_payload(report, run.run_id))
            steps.finish_step(f"{name}: {_window_counts(tables[-1])}")
            if failed := [check for check, passed in run.checks.get(name, {}).items() if not passed]:
                console.print_note(
                    f"{name}: check {', '.join(failed)} failed. k2-ohlcv validate shows what fails, "
                    f"and so does run {run.run_id} in the UI."
                )
    if failures:
        raise RunFailedError("\n".join(failures))
    return tables


def _run_refresh(
    definitions: "dg.Definitions", instance: "dg.DagsterInstance", lag: "TableLag"
) -> "RunResult":
    """Run the refresh job of one table, as its sensor would request the run."""
    from k2_ohlcv.cli.dagster_runs import run_job
    from k2_ohlcv.defs import jobs, run_tags

    timeframe = lag.timeframe
    partitions = definitions.resolve_assets_def(timeframe.table).partitions_def
    assert partitions is not None
    key = run_tags.newest_dirty_partition(partitions, timeframe.grain, lag.dirty_partitions())
    return run_job(
        definitions.resolve_job_def(jobs.refresh_job_name(timeframe)),
        instance,
        timeframe.grain,
        timeframe.grain.partition(day_start(date.fromisoformat(key))),
        [timeframe.table],
        config={"mode": "refresh"},
        tags=run_tags.refresh_tags(lag),
    )


def _skip_table(lake: "Lake", lag: "TableLag", steps: ProgressSteps) -> dict[str, Any]:
    """The JSON of a table that is up to date. It has the fields of a run that had nothing to do."""
    from k2_ohlcv.operations.planning import plan_refresh
    from k2_ohlcv.operations.reports import ReconcileReport

    steps.finish_step(f"{lag.timeframe.table}: up to date")
    plan = plan_refresh(lake.candles(lag.timeframe), lake.trades(), lag.timeframe)
    return {**ReconcileReport(plan, committed=False, seconds=0.0, partitions=()).as_json(), "run_id": None}


def _run_payload(report: Any, run_id: str) -> dict[str, Any]:
    """The JSON of a table that a run refreshed. The run's metadata has snapshot ids as text."""
    ids = {name: int(report[name]) if report[name] else None for name in ("from", "to")}
    return {**report, **ids, "run_id": run_id}


def _window_counts(report: dict[str, Any]) -> WindowCounts:
    return WindowCounts(**{name: report[name] for name in WindowCounts().as_json()})


def _result_table(tables: Sequence[dict[str, Any]]) -> object:
    counts = (*WindowCounts().as_json(), "files_read")
    made = table("table", "intervals#", *(f"{name.replace('_', ' ')}#" for name in counts), "seconds#")
    for report in tables:
        numbers = (f"{report[name]:,}" for name in counts)
        made.add_row(report["table"], f"{len(report['dirty']):,}", *numbers, f"{report['seconds']:.2f}")
    return made
