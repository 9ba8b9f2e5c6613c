"""Carries out a plan: computes chunk by chunk, compares with the stored candles, and commits.

Planning and the retry after a conflict are in `reconcile`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import polars as pl
import pyarrow as pa
import structlog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, intersect_all
from k2_ohlcv.domain.memory import max_windows
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
from k2_ohlcv.lake.metadata.file_search import data_files_within
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.watermark import RefusedWindow
from k2_ohlcv.lake.window_sample import sample_windows_per_trade
from k2_ohlcv.operations.candle_commit import build_candle_commit
from k2_ohlcv.operations.compute_ahead import compute_ahead
from k2_ohlcv.operations.plan import Plan
from k2_ohlcv.operations.plan_chunks import Chunks
from k2_ohlcv.operations.reports import (
    PartitionReport,
    ReconcileReport,
    partition_reports,
    refused_windows,
)
from k2_ohlcv.operations.run_progress import ProgressMeter, RunProgress

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class PlanRun:
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
        with compute_ahead(chunks, self._compute_for_all_markets) as ahead:
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
