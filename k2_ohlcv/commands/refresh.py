"""`k2-ohlcv refresh`: the refresh job of each table that is behind its trades, in this process."""

import time
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from k2_ohlcv.commands.terminal import Steps, Terminal, table
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, timeframe
from k2_ohlcv.domain.window import midnight
from k2_ohlcv.domain.window_counts import WindowCounts

if TYPE_CHECKING:
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.lake.staleness import Staleness


def refresh_tables(terminal: Terminal, name: str, *, explain: bool) -> None:
    """Refresh and show what came of it, or only what would be done.

    Args:
        terminal: where to show it.
        name: a timeframe, or `all`.
        explain: do nothing; say what would be done, and why.

    Raises:
        RunFailedError: runs failed; all other tables are refreshed.
    """
    timeframes = TIMEFRAMES if name == "all" else (timeframe(name),)
    if explain:
        _explain(terminal, timeframes)
        return
    began = time.monotonic()
    with terminal.progress("refreshing", total=len(timeframes)) as steps:
        tables = _run(terminal, timeframes, steps)
    run_ids = [one["run_id"] for one in tables if one["run_id"]]
    seconds = round(time.monotonic() - began, 3)
    terminal.result({"tables": tables, "run_ids": run_ids, "seconds": seconds})
    terminal.show(_shown(tables))
    if not run_ids:
        terminal.show(f"All of it is up to date: nothing to do. {seconds:.1f} s.")


def _explain(terminal: Terminal, timeframes: Sequence[Timeframe]) -> None:
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.reconcile import preview_refresh

    lake = Lake.open(terminal.settings)
    plans = [preview_refresh(lake, one) for one in timeframes]
    terminal.result({"tables": [one.as_json() for one in plans]})
    for one in plans:
        terminal.show(*one.lines())


def _run(terminal: Terminal, timeframes: Sequence[Timeframe], steps: Steps) -> list[dict[str, Any]]:
    steps.doing("looking for what changed")
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.lake.staleness import Staleness

    lake = Lake.open(terminal.settings)
    found = [Staleness.of(lake, one) for one in timeframes]
    if any(one.is_behind for one in found):
        return _launched(terminal, lake, found, steps)
    for one in found:
        steps.done(f"{one.timeframe.table}: up to date")
    return [_current(lake, one) for one in found]


def _launched(
    terminal: Terminal, lake: "Lake", found: Sequence["Staleness"], steps: Steps
) -> list[dict[str, Any]]:
    from k2_ohlcv.commands.instance import opened
    from k2_ohlcv.commands.launch import RunFailedError, launch
    from k2_ohlcv.definitions import build
    from k2_ohlcv.defs import jobs, named

    definitions = build(terminal.settings)
    tables, failures = [], []
    with opened(terminal.settings) as instance:
        for one in found:
            each = one.timeframe
            if not one.is_behind:
                steps.done(f"{each.table}: up to date")
                tables.append(_current(lake, one))
                continue
            steps.doing(each.table)
            there = definitions.resolve_assets_def(each.table).partitions_def
            assert there is not None
            key = named.newest(there, each.grain, one.dirty())
            try:
                ended = launch(
                    definitions.resolve_job_def(jobs.refresh_of(each)),
                    instance,
                    each.grain,
                    each.grain.partition(midnight(date.fromisoformat(key))),
                    [each.table],
                    config={"mode": "refresh"},
                    tags=named.tags_of(one),
                )
            except RunFailedError as error:
                failures.append(str(error))  # what is wrong in one table holds up no other
                steps.done(f"{each.table}: failed")
                continue
            whole = next(part for part in ended.materialized[each.table] if "refresh" in part)["refresh"]
            tables.append(_ended(whole, ended.run_id))
            steps.done(f"{each.table}: {_counts_of(tables[-1])}")
            if failed := [name for name, passed in ended.checks.get(each.table, {}).items() if not passed]:
                terminal.note(
                    f"{each.table}: check {', '.join(failed)} failed. k2-ohlcv validate shows what fails, "
                    f"and so does run {ended.run_id} in the UI."
                )
    if failures:
        raise RunFailedError("\n".join(failures))
    return tables


def _current(lake: "Lake", found: "Staleness") -> dict[str, Any]:
    """What is said of a table that is up to date: what a run would say that had nothing to do."""
    from k2_ohlcv.plan import plan_refresh
    from k2_ohlcv.report import Report

    plan = plan_refresh(lake.candles(found.timeframe), lake.trades(), found.timeframe)
    return {**Report(plan, committed=False, seconds=0.0, partitions=()).as_json(), "run_id": None}


def _ended(report: Any, run_id: str) -> dict[str, Any]:
    """What a run recorded of itself. Ids travel as text, being too long for JavaScript's numbers."""
    ids = {name: int(report[name]) if report[name] else None for name in ("from", "to")}
    return {**report, **ids, "run_id": run_id}


def _counts_of(one: dict[str, Any]) -> WindowCounts:
    return WindowCounts(**{name: one[name] for name in WindowCounts().as_json()})


def _shown(tables: Sequence[dict[str, Any]]) -> object:
    counts = (*WindowCounts().as_json(), "files_read")
    made = table("table", "intervals#", *(f"{name.replace('_', ' ')}#" for name in counts), "seconds#")
    for one in tables:
        numbers = (f"{one[name]:,}" for name in counts)
        made.add_row(one["table"], f"{len(one['dirty']):,}", *numbers, f"{one['seconds']:.2f}")
    return made
