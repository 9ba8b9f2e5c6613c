"""Validation: runs every check of a candle table against the stored candles and the trades.

The rules of the checks are in `frames.checks`. Choosing the windows to compare is in `validation_scope`. The
comparison is in `validation_comparison`. Checks of a table as a whole are in `table_findings`. A table that
cannot be read raises an error, because an outage is no failed check.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from k2_ohlcv.domain.intervals import Interval, coalesce, subtract
from k2_ohlcv.domain.memory import max_windows
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.totals import TotalsCache
from k2_ohlcv.frames import checks
from k2_ohlcv.frames.candles import is_in_intervals
from k2_ohlcv.frames.check_list import CHECKS
from k2_ohlcv.frames.checks import Finding, merge_findings
from k2_ohlcv.frames.gaps import GapFinder
from k2_ohlcv.lake.candle_files import read_candles
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.pending_changes import reject_missing_trades
from k2_ohlcv.operations.reports import ReconciledWindows
from k2_ohlcv.operations.table_findings import find_refused, measure_freshness, measure_trade_times
from k2_ohlcv.operations.validation_comparison import Comparison
from k2_ohlcv.operations.validation_scope import CandleTableState, split_into_chunks


def validate(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    *,
    reconciled: ReconciledWindows | None = None,
    earlier_findings: Sequence[Interval] = (),
    now: datetime | None = None,
    cache: TotalsCache | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Run every check of one candle table, and return one finding per check, in the order of `CHECKS`.

    Args:
        lake: the lake.
        engine: the engine session for totals of trades.
        timeframe: the timeframe of the candle table.
        intervals: the intervals to examine. Row checks and gaps examine whole partitions.
        reconciled: the windows that a run has just reconciled. They are compared with the trades snapshot of
            that run. Row checks then examine the files that may have these windows, and gaps the windows
            alone. Without it, windows are compared with the current trades, except dirty windows.
        earlier_findings: partitions whose refused windows are already in the findings of another call.
        now: the current time for freshness; by default this moment.
        cache: totals of trades, shared with validations of other candle tables.
        progress: a function that receives progress texts.

    Raises:
        MissingTradesError: candles exist, but there are no trades.
    """
    validation = _Validation.load(lake, engine, timeframe, intervals=intervals, reconciled=reconciled)
    validation.check_chunks(cache, progress)
    validation.check_table(reconciled, earlier_findings, now or datetime.now(UTC))
    return [merge_findings(parts) for parts in validation.findings.values()]


@dataclass(frozen=True)
class _Validation:
    """The checks of one candle table, and their findings so far.

    Attributes:
        comparison: compares windows with trades and with 1m.
        gaps: finds spans without a candle.
        partitions: the partitions to examine.
        examined: the intervals to examine: the partitions, or the windows of a run.
        findings: findings by check name, in the order of `CHECKS`.
    """

    comparison: Comparison
    gaps: GapFinder
    partitions: Sequence[Interval]
    examined: Sequence[Interval]
    findings: dict[str, list[Finding]] = field(default_factory=lambda: {check.name: [] for check in CHECKS})

    @classmethod
    def load(
        cls,
        lake: Lake,
        engine: Engine,
        timeframe: Timeframe,
        *,
        intervals: Sequence[Interval],
        reconciled: ReconciledWindows | None,
    ) -> "_Validation":
        """Load the candle table, the 1m table and the trades table, in this order."""
        pair = (timeframe, TIMEFRAMES[0])
        tables = {t: lake.candles(t) for t in pair}
        trades = lake.trades()
        reject_missing_trades(tables[timeframe], trades)
        candles, minutes = (CandleTableState.load(tables[t], trades, t) for t in pair)
        comparison = Comparison.prepare(
            engine, trades, candles, minutes, intervals=intervals, reconciled=reconciled
        )
        gaps = GapFinder(
            timeframe,
            pending=candles.pending,
            too_late=candles.too_late,
            expired=candles.bounds.expired_before,
        )
        partitions = coalesce(timeframe.grain.partitions(intervals))
        return cls(comparison, gaps, partitions, coalesce(intervals) if reconciled else partitions)

    def check_chunks(self, cache: TotalsCache | None, progress: Callable[[str], None] | None) -> None:
        """Check the stored rows chunk by chunk, so that memory stays bounded."""
        comparison, candles = self.comparison, self.comparison.candles
        timeframe, read = candles.timeframe, set[str]()
        max_rows = max_windows(comparison.engine.memory_mb)
        chunks = split_into_chunks(self.examined, candles, comparison.minutes, max_rows)
        for chunk in chunks if self.examined else [[]]:
            if progress and chunk:
                span = f"{chunk[0].start:%Y-%m-%d} to {chunk[-1].end:%Y-%m-%d}"
                progress(f"{timeframe.table}: checking {span}")
            rows, paths = read_candles(candles.table, timeframe, chunk)
            is_stored_here = ~pl.col("misplaced") & is_in_intervals("window_start", chunk)
            stored = rows.filter(is_stored_here)
            new = [index for index, path in enumerate(paths) if path not in read]
            beside = rows.filter(~is_stored_here & pl.col("task").is_in(new) & self._is_checked_beside)
            examined = pl.concat([stored, beside]).drop("misplaced", "task")  # findings show rows to people
            self._add(checks.check_rows(examined, timeframe))
            self._add(comparison.compare(stored, chunk, cache))
            self.gaps.add_candles(stored, chunk)
            read.update(paths)

    @property
    def _is_checked_beside(self) -> pl.Expr:
        """Which further rows of the files get the row checks: misplaced rows; after a run, all rows.

        A run may have rewritten the files. Rows of the examined intervals are in another chunk.
        """
        if self.comparison.is_of_run:
            return pl.col("misplaced") | ~is_in_intervals("window_start", self.examined)
        return pl.col("misplaced")

    def check_table(
        self, reconciled: ReconciledWindows | None, earlier_findings: Sequence[Interval], now: datetime
    ) -> None:
        """Add the findings that do not depend on a chunk."""
        comparison, candles = self.comparison, self.comparison.candles
        self._add(comparison.uncompared_findings())
        self._add(find_refused(candles, subtract(self.partitions, earlier_findings), reconciled))
        self._add([self.gaps.build_finding()])
        self._add([measure_freshness(candles, comparison.trades, now)])
        times = (comparison.engine, comparison.trades, comparison.snapshot, candles.timeframe)
        self._add([measure_trade_times(*times)])

    def _add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.findings[finding.check].append(finding)
