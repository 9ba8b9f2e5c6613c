"""`k2-ohlcv refresh`: the refresh job of each table that is behind its trades, in this process."""

import time
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from k2_ohlcv.cli.console import Console, ProgressSteps, table
from k2_ohlcv.domain.intervals import day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe
from k2_ohlcv.domain.window_counts import WindowCounts

if TYPE_CHECKING:
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.lake.metadata.lag import TableLag


def refresh_tables(terminal: Console, name: str, *, explain: bool) -> None:
    """Refresh and show what came of it, or only what would be done.

    Args:
        terminal: where to show it.
        name: a timeframe, or `all`.
        explain: do nothing; say what would be done, and why.

    Raises:
        RunFailedError: runs failed; all other tables are refreshed.
    """
    timeframes = TIMEFRAMES if name == "all" else (find_timeframe(name),)
    if explain:
        _explain(terminal, timeframes)
        return
    began = time.monotonic()
    with terminal.progress("refreshing", total=len(timeframes)) as steps:
        tables = _run_refreshes(terminal, timeframes, steps)
    run_ids = [one["run_id"] for one in tables if one["run_id"]]
    seconds = round(time.monotonic() - began, 3)
    terminal.print_json({"tables": tables, "run_ids": run_ids, "seconds": seconds})
    terminal.print_text(_result_table(tables))
    if not run_ids:
        terminal.print_text(f"All of it is up to date: nothing to do. {seconds:.1f} s.")


def _explain(terminal: Console, timeframes: Sequence[Timeframe]) -> None:
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.operations.reconcile import preview_refresh

    lake = Lake.open(terminal.settings)
    plans = [preview_refresh(lake, one) for one in timeframes]
    terminal.print_json({"tables": [one.as_json() for one in plans]})
    for one in plans:
        terminal.print_text(*one.lines())


def _run_refreshes(
    terminal: Console, timeframes: Sequence[Timeframe], steps: ProgressSteps
) -> list[dict[str, Any]]:
    steps.start_step("looking for what changed")
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.lake.metadata.lag import TableLag

    lake = Lake.open(terminal.settings)
    found = [TableLag.measure(lake, one) for one in timeframes]
    if any(one.is_stale for one in found):
        return _run_job(terminal, lake, found, steps)
    for one in found:
        steps.finish_step(f"{one.timeframe.table}: up to date")
    return [_up_to_date(lake, one) for one in found]


def _run_job(
    terminal: Console, lake: "Lake", found: Sequence["TableLag"], steps: ProgressSteps
) -> list[dict[str, Any]]:
    from k2_ohlcv.cli.dagster_instance import open_instance
    from k2_ohlcv.cli.dagster_runs import RunFailedError, run_job
    from k2_ohlcv.definitions import build_definitions
    from k2_ohlcv.defs import jobs, run_tags

    definitions = build_definitions(terminal.settings)
    tables, failures = [], []
    with open_instance(terminal.settings) as instance:
        for one in found:
            each = one.timeframe
            if not one.is_stale:
                steps.finish_step(f"{each.table}: up to date")
                tables.append(_up_to_date(lake, one))
                continue
            steps.start_step(each.table)
            there = definitions.resolve_assets_def(each.table).partitions_def
            assert there is not None
            key = run_tags.newest_dirty_partition(there, each.grain, one.dirty_partitions())
            try:
                ended = run_job(
                    definitions.resolve_job_def(jobs.refresh_job_name(each)),
                    instance,
                    each.grain,
                    each.grain.partition(day_start(date.fromisoformat(key))),
                    [each.table],
                    config={"mode": "refresh"},
                    tags=run_tags.refresh_tags(one),
                )
            except RunFailedError as error:
                failures.append(str(error))  # what is wrong in one table holds up no other
                steps.finish_step(f"{each.table}: failed")
                continue
            whole = next(part for part in ended.materialized[each.table] if "refresh" in part)["refresh"]
            tables.append(_run_payload(whole, ended.run_id))
            steps.finish_step(f"{each.table}: {_counts_of(tables[-1])}")
            if failed := [name for name, passed in ended.checks.get(each.table, {}).items() if not passed]:
                terminal.print_note(
                    f"{each.table}: check {', '.join(failed)} failed. k2-ohlcv validate shows what fails, "
                    f"and so does run {ended.run_id} in the UI."
                )
    if failures:
        raise RunFailedError("\n".join(failures))
    return tables


def _up_to_date(lake: "Lake", found: "TableLag") -> dict[str, Any]:
    """What is said of a table that is up to date: what a run would say that had nothing to do."""
    from k2_ohlcv.operations.plan import plan_refresh
    from k2_ohlcv.operations.reports import ReconcileReport

    plan = plan_refresh(lake.candles(found.timeframe), lake.trades(), found.timeframe)
    return {**ReconcileReport(plan, committed=False, seconds=0.0, partitions=()).as_json(), "run_id": None}


def _run_payload(report: Any, run_id: str) -> dict[str, Any]:
    """What a run recorded of itself. Ids travel as text, being too long for JavaScript's numbers."""
    ids = {name: int(report[name]) if report[name] else None for name in ("from", "to")}
    return {**report, **ids, "run_id": run_id}


def _counts_of(one: dict[str, Any]) -> WindowCounts:
    return WindowCounts(**{name: one[name] for name in WindowCounts().as_json()})


def _result_table(tables: Sequence[dict[str, Any]]) -> object:
    counts = (*WindowCounts().as_json(), "files_read")
    made = table("table", "intervals#", *(f"{name.replace('_', ' ')}#" for name in counts), "seconds#")
    for one in tables:
        numbers = (f"{one[name]:,}" for name in counts)
        made.add_row(one["table"], f"{len(one['dirty']):,}", *numbers, f"{one['seconds']:.2f}")
    return made
