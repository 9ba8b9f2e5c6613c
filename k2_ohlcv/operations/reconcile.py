"""Rebuild and refresh: make windows of a candle table equal to the trades, in atomic commits.

`rebuild` and `refresh` differ only in their plan. Choosing the windows is in `planning`, carrying out a plan
in `plan_run`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.trades_reader import describe_invalid_rows
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.operations.plan import Plan
from k2_ohlcv.operations.plan_run import PlanRun
from k2_ohlcv.operations.planning import plan_rebuild, plan_refresh
from k2_ohlcv.operations.reports import ReconcileReport, RefusedWindowsError
from k2_ohlcv.operations.run_progress import RunProgress


def rebuild(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    intervals: Sequence[Interval] | None = None,
    *,
    cache: WindowCache | None = None,
    progress: Callable[[RunProgress], None] | None = None,
) -> ReconcileReport:
    """Make whole partitions of a candle table equal to the current trades.

    Args:
        lake: the lake.
        engine: the engine session.
        timeframe: the timeframe of the candle table.
        intervals: the intervals to rebuild, widened to whole partitions. None rebuilds every partition that
            has trades or candles.
        cache: windows shared with the other candle tables of the same run.
        progress: a function that receives the progress before the first commit and after each one.

    Raises:
        RefusedWindowsError: some windows break an invariant. All other windows are committed.
        MissingTradesError: candles exist, but there are no trades.
        CommitConflictError: other writers won every attempt.
    """
    plan = partial(plan_rebuild, intervals=intervals)
    return _run(lake, engine, timeframe, plan, cache=cache, progress=progress)


def refresh(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    *,
    cache: WindowCache | None = None,
    progress: Callable[[RunProgress], None] | None = None,
) -> ReconcileReport:
    """Make the dirty windows of a candle table equal to the current trades.

    Each commit writes its candles and the watermark together. After a crash, the next refresh therefore
    repeats some work, but no trade is lost or counted twice. Arguments and errors are those of `rebuild`.
    """
    return _run(lake, engine, timeframe, plan_refresh, cache=cache, progress=progress)


def preview_refresh(lake: Lake, timeframe: Timeframe) -> Plan:
    """Return the plan that `refresh` would carry out now. Changes nothing."""
    candles = lake.candles(timeframe)
    return plan_refresh(candles, lake.trades(), timeframe)


def _run(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    plan: Callable[[Table, Table, Timeframe], Plan],
    *,
    cache: WindowCache | None,
    progress: Callable[[RunProgress], None] | None,
) -> ReconcileReport:
    """Load the tables, plan, compute and commit. Start over after a commit conflict."""
    started = time.monotonic()

    def attempt(candles: Table) -> ReconcileReport:
        # Load the candle table before the trades. A later commit of candles by another writer then conflicts
        # with this attempt. An earlier commit used no newer trades snapshot than this attempt.
        base, trades = candles.metadata_location, lake.trades()
        try:
            state = PlanRun(lake, engine, trades, plan(candles, trades, timeframe), cache, progress)
            report = state.run(candles)
        except FileNotFoundError as error:
            if _is_table_changed(lake, timeframe, base):
                raise CommitFailedException(f"files of the loaded version were deleted: {error}") from error
            raise
        report = replace(report, seconds=time.monotonic() - started)
        if report.refused:
            raise _refused_windows_error(state, report)
        return report

    return retry_conflicts(lambda: lake.candles(timeframe), attempt)


def _is_table_changed(lake: Lake, timeframe: Timeframe, base: str) -> bool:
    """Whether another writer has committed candles since the load. Loaded files may then be deleted."""
    return lake.candles(timeframe).metadata_location != base


def _refused_windows_error(attempt: PlanRun, report: ReconcileReport) -> RefusedWindowsError:
    """Build the error that names the refused windows, and the trades without an exact value."""
    misfits, spans = "", [r.window for r in report.refused if r.check == "positive_metrics"]
    if isinstance(attempt.trades, ExternalTrades) and report.trades_snapshot is not None and spans:
        misfits = describe_invalid_rows(attempt.engine, attempt.trades, report.trades_snapshot, spans)
    return RefusedWindowsError.from_report(report, owns_trades=attempt.lake.has_own_trades, misfits=misfits)
