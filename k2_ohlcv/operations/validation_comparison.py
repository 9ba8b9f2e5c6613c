"""Compares stored candles with totals of the trades, and with the 1m candles.

The rules are in `frames.checks`. Choosing the windows to compare is in `validation_scope`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.totals import TotalsCache, compute_totals
from k2_ohlcv.frames import checks
from k2_ohlcv.frames.candles import is_in_intervals
from k2_ohlcv.frames.checks import Finding
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.candle_files import read_candles
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.operations.reports import ReconciledWindows
from k2_ohlcv.operations.validation_scope import CandleTableState, ComparisonScope, find_not_comparable


@dataclass(frozen=True)
class Comparison:
    """Compares the windows of a candle table with trades at a snapshot, and with 1m candles.

    Attributes:
        engine: the engine session for totals of trades.
        trades: the trades table.
        snapshot: the trades snapshot to compare with; None if trades have no snapshot.
        candles: the candle table.
        minutes: the 1m candle table.
        with_trades: the windows to compare with trades.
        with_minutes: the windows to compare with 1m.
        not_comparable: the finding that no window is compared with 1m; None if windows are compared.
        selection: the windows that a run reconciled; None for all windows.
    """

    engine: Engine
    trades: Table
    snapshot: int | None
    candles: CandleTableState
    minutes: CandleTableState
    with_trades: ComparisonScope
    with_minutes: ComparisonScope
    not_comparable: Finding | None
    selection: WindowSelection | None = None

    @property
    def is_of_run(self) -> bool:
        """Whether the windows of a run are compared."""
        return self.selection is not None

    @classmethod
    def prepare(
        cls,
        engine: Engine,
        trades: Table,
        candles: CandleTableState,
        minutes: CandleTableState,
        *,
        intervals: Sequence[Interval],
        reconciled: ReconciledWindows | None,
    ) -> "Comparison":
        """Prepare the comparison of some intervals, or of the windows that a run has just reconciled."""
        timeframe, selection = candles.timeframe, reconciled.compared if reconciled else None
        snapshot, windows = trades.metadata.current_snapshot_id, timeframe.align(intervals)
        if reconciled and selection:
            snapshot, windows = reconciled.snapshot, selection.cover(timeframe)
        pending, outside = [] if reconciled else candles.pending, candles.outside_bounds(windows)
        with_trades = ComparisonScope.select(timeframe, windows, pending, outside)
        with_minutes = ComparisonScope.select(
            timeframe,
            windows,
            timeframe.align([*candles.pending, *minutes.pending]),
            timeframe.align([*outside, *minutes.outside_bounds(windows)]),
        )
        not_comparable = find_not_comparable(candles, minutes, selection)
        return cls(
            engine, trades, snapshot, candles, minutes, with_trades, with_minutes, not_comparable, selection
        )

    def compare(
        self, stored: pl.DataFrame, chunk: Sequence[Interval], cache: TotalsCache | None
    ) -> list[Finding]:
        """Compare the stored rows of a chunk."""
        timeframe = self.candles.timeframe
        windows = intersect_all(chunk, self.with_trades.examined)
        totals = self._compute_totals(windows, cache)
        findings = [checks.check_totals(self._rows_in(stored, windows), totals, timeframe)]
        if not self.not_comparable:
            windows = intersect_all(chunk, self.with_minutes.examined)
            minutes, _ = read_candles(self.minutes.table, self.minutes.timeframe, windows)
            minutes = minutes.filter(~pl.col("misplaced") & is_in_intervals("window_start", windows))
            rolled = self._rows_in(checks.roll_up_minutes(minutes, timeframe), windows)
            findings.append(checks.check_rollup(self._rows_in(stored, windows), rolled, timeframe))
        return findings

    def _rows_in(self, rows: pl.DataFrame, windows: Sequence[Interval]) -> pl.DataFrame:
        """The rows of some windows; after a run, of those that it reconciled."""
        selection = self.selection.clip(windows) if self.selection else WindowSelection(tuple(windows))
        return selection.filter(rows)

    def uncompared_findings(self) -> list[Finding]:
        """Count the windows that are not compared."""
        timeframe = self.candles.timeframe
        return [
            self.with_trades.uncompared_finding("reconciles_with_trades", timeframe),
            self.not_comparable or self.with_minutes.uncompared_finding("timeframes_agree", timeframe),
        ]

    def _compute_totals(self, windows: Sequence[Interval], cache: TotalsCache | None) -> pl.DataFrame:
        """Compute the totals of the trades, only on days that have trades."""
        timeframe = self.candles.timeframe
        if self.snapshot is None:
            return compute_totals(self.engine, self.trades, 0, timeframe, [])
        days = coalesce(Grain.DAY.partitions(trades_spans(self.trades, self.snapshot)))
        compute = partial(compute_totals, self.engine, self.trades, self.snapshot, timeframe)
        if self.selection is None:
            return compute(intersect_all(windows, days), cache=cache)
        selection = self.selection.clip(windows)
        totals = compute(intersect_all(selection.intervals, days), cache=cache)
        if selection.pairs.is_empty():
            return totals
        single = WindowSelection(pairs=selection.pairs).cover(timeframe)
        return pl.concat([totals, compute(intersect_all(single, days), pairs=selection.pairs)])
