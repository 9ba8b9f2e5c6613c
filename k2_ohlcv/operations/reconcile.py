"""The one operation: make windows of a candle table equal to the trades, in atomic commits.

`rebuild` and `refresh` differ only in the plan: which windows they make equal is chosen in `plan`. What came
of it is in `report`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import polars as pl
import structlog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, intersect_all
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.engine import rollup
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.frames.candles import candles_from_windows
from k2_ohlcv.lake.candles import CandleFileChange, StoredCandles
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.lake.watermark import RefusedWindow, Watermark
from k2_ohlcv.operations.plan import Plan, plan_rebuild, plan_refresh
from k2_ohlcv.operations.plan_chunks import split_into_chunks
from k2_ohlcv.operations.reports import (
    PartitionReport,
    ReconcileReport,
    RefusedWindowsError,
    partition_reports,
    refused_windows,
)

_log = structlog.get_logger(__name__)


def rebuild(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    intervals: Sequence[Interval] | None = None,
    *,
    cache: WindowCache | None = None,
    progress: Callable[[str], None] | None = None,
) -> ReconcileReport:
    """Make whole partitions of a candle table equal to the trades as they are now.

    Args:
        lake: where the tables are.
        engine: the session to compute in.
        timeframe: the candle table.
        intervals: what to rebuild, widened to whole partitions; None is every partition that has trades or
            candles.
        cache: windows that are shared with the other tables of the same run.
        progress: told in words what is being done.

    Raises:
        RefusedWindowsError: some windows break an invariant. All others are committed.
        MissingTradesError: the candles were made from trades, and there are none any more.
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
    progress: Callable[[str], None] | None = None,
) -> ReconcileReport:
    """Bring a candle table from its watermark to the trades as they are now, reading what changed.

    The watermark moves in the commit that makes it true. A crash anywhere therefore repeats work, and never
    loses or doubles any. Arguments and errors are those of `rebuild`.
    """
    return _run(lake, engine, timeframe, plan_refresh, cache=cache, progress=progress)


def preview_refresh(lake: Lake, timeframe: Timeframe) -> Plan:
    """The plan that `refresh` would carry out at this moment. Changes nothing."""
    candles = lake.candles(timeframe)
    return plan_refresh(candles, lake.trades(), timeframe)


def _run(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    plan: Callable[[Table, Table, Timeframe], Plan],
    *,
    cache: WindowCache | None,
    progress: Callable[[str], None] | None,
) -> ReconcileReport:
    """Carry out the plan for the tables as they are loaded. Load and plan again if a race is lost."""
    started = time.monotonic()

    def attempt(candles: Table) -> ReconcileReport:
        # The candle table first, then the pin: whoever commits candles after our load makes our commit fail,
        # and whoever committed before it pinned no newer trades than we do.
        base, trades = candles.metadata_location, lake.trades()
        try:
            work = _Attempt(lake, engine, trades, plan(candles, trades, timeframe), cache, progress)
            report = work.run(candles)
        except FileNotFoundError as gone:
            if _is_table_changed(lake, timeframe, base):
                raise CommitFailedException(f"files of the loaded version are gone: {gone}") from gone
            raise
        report = replace(report, seconds=time.monotonic() - started)
        if report.refused:
            raise _refused_windows_error(work, report)
        return report

    return retry_conflicts(lambda: lake.candles(timeframe), attempt)


def _is_table_changed(lake: Lake, timeframe: Timeframe, base: str) -> bool:
    """Whether somebody committed candles since: files of the version that we loaded may be gone by now."""
    return lake.candles(timeframe).metadata_location != base


@dataclass(frozen=True)
class _Attempt:
    """One attempt to carry out a plan."""

    lake: Lake
    engine: Engine
    trades: Table
    plan: Plan
    cache: WindowCache | None
    progress: Callable[[str], None] | None

    def run(self, candles: Table) -> ReconcileReport:
        """Compute and commit the plan in chunks. Each commit closes the intervals that it reconciled."""
        plan = self.plan
        self._warn(candles)
        partitions: list[PartitionReport] = []
        refused: list[RefusedWindow] = []
        mark, committed = plan.start, False
        for chunk in list(split_into_chunks(plan, self.trades)) or [[]]:
            if self.progress:
                self.progress(
                    f"{plan.timeframe.table}: {len(partitions)} of {len(plan.partitions)} partitions"
                )
            change, computed = self._change(candles, chunk) if chunk else (None, None)
            bad = refused_windows(change, plan.timeframe)
            mark = mark.with_reconciled(chunk, bad) if mark else None
            step = _table_commit(candles, change, mark, dict(plan.properties))
            if step is not None:
                candles = commit_change(self._created(candles), step)
                committed = True
            if change is not None and computed is not None:
                partitions.extend(partition_reports(plan.timeframe, change, computed, chunk))
            refused += bad
        return ReconcileReport(plan, committed, 0.0, tuple(partitions), tuple(refused), mark)

    def _change(self, candles: Table, chunk: Sequence[Interval]) -> tuple[CandleFileChange, pl.DataFrame]:
        """Compute some windows at the pinned snapshot, and compare them with the table as it was loaded.

        Only days that have trades are asked for, so that a month asks for what a scan for the shorter
        timeframes of the same run has found already.
        """
        plan, windows = self.plan, rollup.WINDOW_SCHEMA.empty_table()
        if plan.trades_to is not None:
            wanted = intersect_all(chunk, plan.days)
            windows = rollup.compute_windows(
                self.engine, self.trades, plan.trades_to, plan.timeframe, wanted, cache=self.cache
            )
        computed, refused = candles_from_windows(windows, plan.timeframe)
        stored = StoredCandles.load(candles, plan.timeframe, chunk)
        return stored.change(computed, refused, chunk, datetime.now(UTC)), computed

    def _created(self, candles: Table) -> Table:
        """The table to commit to, created where there is none yet.

        Raises:
            CommitFailedException: somebody else has created it and committed to it meanwhile.
        """
        if not isinstance(candles, MissingTable):
            return candles
        created = self.lake.writable_candles(self.plan.timeframe)
        if created.current_snapshot() is not None:
            raise CommitFailedException("the table was created meanwhile")
        return created

    def _warn(self, candles: Table) -> None:
        """Log why everything is computed again, and what another writer broke for good."""
        plan, table = self.plan, self.plan.timeframe.table
        if plan.reason and candles.current_snapshot() is not None:
            _log.warning("everything is dirty", table=table, reason=plan.reason)
        if plan.changed_behind_bounds:
            _log.warning(
                "candles behind a line were changed", table=table, reason=plan.changed_behind_bounds_text
            )


def _refused_windows_error(work: _Attempt, report: ReconcileReport) -> RefusedWindowsError:
    """The error that names the refused windows, and the trades that cannot be read exactly."""
    misfits, spans = "", [r.window for r in report.refused if r.check == "positive_metrics"]
    if isinstance(work.trades, ExternalTrades) and report.trades_snapshot is not None and spans:
        misfits = rollup.describe_invalid_rows(work.engine, work.trades, report.trades_snapshot, spans)
    return RefusedWindowsError.from_report(report, owns_trades=work.lake.has_own_trades, misfits=misfits)


def _table_commit(
    candles: Table, change: CandleFileChange | None, mark: Watermark | None, properties: dict[str, str]
) -> TableCommit | None:
    """The commit that is due, or None: candles that are right under a watermark that says so already."""
    is_empty = change is None or change.is_empty
    if isinstance(candles, MissingTable) and is_empty:
        return None  # a table is created with its first candles
    is_said = mark is None or (mark == (said := Watermark.from_table(candles)) and mark.is_mirrored(candles))
    if mark is not None and said is not None:
        # What became possible, or lies ahead of the frozen line again, is reconciled now. Else it stays open.
        came = change is not None and mark.until != said.until
        thawed = said.frozen_before is not None and (
            mark.frozen_before is None or mark.frozen_before < said.frozen_before
        )
        is_said = is_said and not (came or thawed)
    missing = {key: value for key, value in properties.items() if candles.properties.get(key) != value}
    if is_empty and is_said and not missing:
        return None
    return TableCommit(
        removed_files=() if change is None else tuple(task.file for task in change.removed),
        rows=None if change is None else change.rows,
        properties={**missing, **(mark.properties() if mark else {})},
        summary=mark.summary() if mark else {},
    )
