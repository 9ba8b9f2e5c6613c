"""Rebuild and refresh: make windows of a candle table equal to the trades, in atomic commits.

`rebuild` and `refresh` differ only in their plan. Choosing the windows is in `planning`, report classes are
in `reports`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import polars as pl
import pyarrow as pa
import structlog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, intersect_all
from k2_ohlcv.domain.memory import max_windows
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.engine import rollup
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.frames.candles import candles_from_windows
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.frames.windows import WINDOW_SCHEMA
from k2_ohlcv.lake.candles import CandleFileChange, StoredCandles
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import commit_change
from k2_ohlcv.lake.delete_files import partitions_with_unreadable_deletes
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.metadata.file_search import data_files_within
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.lake.watermark import RefusedWindow
from k2_ohlcv.lake.window_sample import sample_windows_per_trade
from k2_ohlcv.operations.candle_commit import build_candle_commit
from k2_ohlcv.operations.compute_ahead import compute_ahead
from k2_ohlcv.operations.plan import Plan
from k2_ohlcv.operations.plan_chunks import Chunks
from k2_ohlcv.operations.planning import plan_rebuild, plan_refresh
from k2_ohlcv.operations.reports import (
    PartitionReport,
    ReconcileReport,
    RefusedWindowsError,
    partition_reports,
    refused_windows,
)
from k2_ohlcv.operations.run_progress import ProgressMeter, RunProgress

_log = structlog.get_logger(__name__)


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
            state = _Attempt(lake, engine, trades, plan(candles, trades, timeframe), cache, progress)
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


@dataclass(frozen=True)
class _Attempt:
    """One attempt to carry out a plan. A commit conflict ends the attempt."""

    lake: Lake
    engine: Engine
    trades: Table
    plan: Plan
    cache: WindowCache | None
    progress: Callable[[RunProgress], None] | None

    def run(self, candles: Table) -> ReconcileReport:
        """Compute and commit the plan in chunks. Each commit closes its intervals in the watermark."""
        self._warn(candles)
        chunks = self._split_into_chunks(candles)
        with closing(compute_ahead(chunks, self._compute_for_all_markets)) as ahead:
            return self._commit_chunks(candles, chunks, ahead if self.plan.intervals else [([], None)])

    def _commit_chunks(
        self,
        candles: Table,
        chunks: Chunks,
        computed_chunks: Iterable[tuple[Sequence[Interval], pa.Table | None]],
    ) -> ReconcileReport:
        """Commit chunk by chunk. Windows that are not computed yet are computed here."""
        plan = self.plan
        partitions: dict[Interval, PartitionReport] = {}
        refused: list[RefusedWindow] = []
        mark, committed = plan.start, False
        meter = ProgressMeter(plan, chunks.estimate, self.progress) if self.progress else None
        for chunk, windows in computed_chunks:
            change, computed = self._compute_change(candles, chunk, windows) if chunk else (None, None)
            chunk_refused = refused_windows(change, plan.timeframe)
            mark = mark.with_reconciled(chunk, chunk_refused) if mark else None
            stored_mark = mark.limited() if mark else None
            commit = build_candle_commit(candles, change, stored_mark, dict(plan.properties))
            if commit is not None:
                candles = commit_change(self._create_if_missing(candles), commit)
                committed = True
            if change is not None and computed is not None:
                for report in partition_reports(plan.timeframe, change, computed, chunk):
                    partitions[report.partition] = report + partitions.get(report.partition)
                trades = int(computed["trade_count"].sum())
                if windows is None:
                    chunks.add_result(trades, computed.height)
                if meter:
                    meter.add_commit(chunk, trades)
            refused += chunk_refused
        return ReconcileReport(plan, committed, 0.0, tuple(partitions.values()), tuple(refused), mark)

    def _split_into_chunks(self, candles: Table) -> Chunks:
        """Split the plan. Partitions with unreadable deletes are not cut, as a part could not drop them."""
        plan = self.plan
        return Chunks(
            plan,
            data_files_within(self.trades, plan.trades_to, plan.intervals),
            max_windows=max_windows(self.engine.memory_mb),
            sample=lambda file: sample_windows_per_trade(self.trades, file, plan.timeframe),
            indivisible=partitions_with_unreadable_deletes(candles, plan.timeframe),
        )

    def _compute_change(
        self, candles: Table, chunk: Sequence[Interval], windows: pa.Table | None
    ) -> tuple[CandleFileChange, pl.DataFrame]:
        """Compare the windows of a chunk with the loaded candle table. Compute missing windows first."""
        stored = StoredCandles.load(candles, self.plan.timeframe, chunk)
        selection = self.plan.selection.clip(chunk).widen(self.plan.timeframe, stored.rows)
        if windows is None:
            windows = self._compute_windows(selection)
        computed, refused = candles_from_windows(windows, self.plan.timeframe)
        return stored.change(computed, refused, selection, datetime.now(UTC)), computed

    def _compute_for_all_markets(self, chunk: Sequence[Interval]) -> pa.Table | None:
        """Compute the windows of a chunk. None if single markets are selected.

        How those are computed depends on the stored candles, which earlier commits may change.
        """
        selection = self.plan.selection.clip(chunk)
        return self._compute_windows(selection) if selection.pairs.is_empty() else None

    def _compute_windows(self, selection: WindowSelection) -> pa.Table:
        """Compute the selected windows at the pinned snapshot.

        The engine computes only days that have trades. The request for a month then matches the cached
        windows of the daily tables of the same run.
        """
        plan = self.plan
        if plan.trades_to is None:
            return WINDOW_SCHEMA.empty_table()
        compute = partial(rollup.compute_windows, self.engine, self.trades, plan.trades_to, plan.timeframe)
        parts = [WINDOW_SCHEMA.empty_table()]
        if whole := intersect_all(selection.intervals, plan.days):
            parts.append(compute(whole, cache=self.cache))
        pairs = WindowSelection(pairs=selection.pairs)
        if single := intersect_all(pairs.cover(plan.timeframe), plan.days):
            parts.append(compute(single, pairs=pairs.pairs))
        return pa.concat_tables(parts)

    def _create_if_missing(self, candles: Table) -> Table:
        """Return the table to commit to. Create the table if it is missing.

        Raises:
            CommitFailedException: another writer has created the table and committed to it.
        """
        if not isinstance(candles, MissingTable):
            return candles
        created = self.lake.writable_candles(self.plan.timeframe)
        if created.current_snapshot() is not None:
            raise CommitFailedException("another writer has created the table")
        return created

    def _warn(self, candles: Table) -> None:
        """Log why all windows are dirty, and which changed candles cannot be computed again."""
        plan, table = self.plan, self.plan.timeframe.table
        if plan.reason and candles.current_snapshot() is not None:
            _log.warning("all windows are dirty", table=table, reason=plan.reason)
        if plan.changed_behind_bounds:
            reason = plan.changed_behind_bounds_text
            _log.warning("another writer changed frozen or expired candles", table=table, reason=reason)


def _refused_windows_error(attempt: _Attempt, report: ReconcileReport) -> RefusedWindowsError:
    """Build the error that names the refused windows, and the trades without an exact value."""
    misfits, spans = "", [r.window for r in report.refused if r.check == "positive_metrics"]
    if isinstance(attempt.trades, ExternalTrades) and report.trades_snapshot is not None and spans:
        misfits = rollup.describe_invalid_rows(attempt.engine, attempt.trades, report.trades_snapshot, spans)
    return RefusedWindowsError.from_report(report, owns_trades=attempt.lake.has_own_trades, misfits=misfits)
