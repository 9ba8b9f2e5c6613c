"""Reports of a rebuild or a refresh. `reconcile` builds the reports; Dagster runs and commands show them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from k2_ohlcv.domain.errors import InvariantError
from k2_ohlcv.domain.intervals import Interval, subtract
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.window_counts import WindowCounts
from k2_ohlcv.frames.candles import MAX_SAMPLE_ROWS, partition_start_of
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.candles import CandleFileChange
from k2_ohlcv.lake.watermark import RefusedWindow, Watermark
from k2_ohlcv.operations.plan import Plan


@dataclass(frozen=True)
class ReconciledWindows:
    """The windows that a run reconciled with the trades.

    Attributes:
        snapshot: the trades snapshot; None if trades have no snapshot.
        intervals: intervals that have all of the windows.
        refused: windows in the intervals that break an invariant. Their stored candles are unchanged.
        selection: the windows; None for all windows of the intervals.
    """

    snapshot: int | None
    intervals: tuple[Interval, ...]
    refused: tuple[RefusedWindow, ...] = ()
    selection: WindowSelection | None = None

    @property
    def compared(self) -> WindowSelection:
        """The windows to compare: all but the refused ones."""
        selection = self.selection or WindowSelection(self.intervals)
        return selection.clip(subtract(self.intervals, [r.window for r in self.refused]))


@dataclass(frozen=True)
class PartitionReport:
    """The counts of one partition: windows by outcome, and trades read."""

    partition: Interval
    counts: WindowCounts
    trades: int

    def __add__(self, other: "PartitionReport | None") -> "PartitionReport":
        """Add the report of an earlier commit to the same partition."""
        if other is None:
            return self
        return PartitionReport(self.partition, self.counts + other.counts, self.trades + other.trades)


@dataclass(frozen=True)
class ReconcileReport:
    """The result of one rebuild or refresh of a candle table.

    Attributes:
        plan: the plan that was carried out.
        committed: whether the run made a commit. A commit may change the watermark alone.
        seconds: wall time in seconds, retries included.
        partitions: a report for each partition of the plan.
        refused: windows that break an invariant. Their stored candles are unchanged.
        watermark: the new watermark of the table; None if trades have no snapshot.
    """

    plan: Plan
    committed: bool
    seconds: float
    partitions: tuple[PartitionReport, ...]
    refused: tuple[RefusedWindow, ...] = ()
    watermark: Watermark | None = None

    @property
    def timeframe(self) -> Timeframe:
        """The timeframe of the table."""
        return self.plan.timeframe

    @property
    def trades_snapshot(self) -> int | None:
        """The trades snapshot of the plan; None if trades have no snapshot."""
        return self.plan.trades_to

    @property
    def reconciled_windows(self) -> ReconciledWindows:
        """The windows that the run reconciled with the trades."""
        return ReconciledWindows(self.trades_snapshot, self.plan.intervals, self.refused, self.plan.selection)

    @property
    def watermark_moved(self) -> bool:
        """Whether the whole table now equals the trades at `trades_snapshot`."""
        return self.watermark is not None and self.watermark.is_complete

    @property
    def counts(self) -> WindowCounts:
        """The counts of windows over all partitions."""
        return sum((p.counts for p in self.partitions), WindowCounts())

    @property
    def trades_read(self) -> int:
        """The number of trades in the reconciled windows."""
        return sum(p.trades for p in self.partitions)

    def as_json(self) -> dict[str, object]:
        """Return the report as one JSON object."""
        return {
            **self.plan.as_json(),
            **self.counts.as_json(),
            "refused": len(self.refused),
            "trades_read": self.trades_read,
            "committed": self.committed,
            "seconds": round(self.seconds, 3),
        }


class RefusedWindowsError(InvariantError):
    """Some windows break an invariant and were not committed. All other windows were committed.

    Attributes:
        report: the report of the run.
    """

    def __init__(self, message: str, checks: Mapping[str, int], report: ReconcileReport) -> None:
        super().__init__(message, checks)
        self.report = report

    @classmethod
    def from_report(
        cls, report: ReconcileReport, *, owns_trades: bool, misfits: str
    ) -> "RefusedWindowsError":
        """Build the error of a report with refused windows.

        Args:
            report: the report of the run.
            owns_trades: whether the project owns the trades table, and can correct its trades.
            misfits: describes trades without an exact value, or is empty.
        """
        samples = [str(window) for window in report.refused[:MAX_SAMPLE_ROWS]]
        hidden = len(report.refused) - MAX_SAMPLE_ROWS
        more = f" and {hidden:,} more" if hidden > 0 else ""
        counts = Counter(window.check for window in report.refused)
        remedy = (
            "Correct or delete their trades (k2-ohlcv trades delete), then refresh"
            if owns_trades
            else "The owner of the trades table must correct their trades. Then refresh"
        )
        message = (
            f"{len(report.refused):,} windows of {report.timeframe.table} break {', '.join(counts)}: "
            f"{'; '.join(samples)}{more}. Their stored candles are unchanged; all other windows are "
            f"committed. {remedy}"
        )
        return cls(f"{message}. {misfits}" if misfits else message, counts, report)


def refused_windows(change: CandleFileChange | None, timeframe: Timeframe) -> list[RefusedWindow]:
    """Return the windows that a change does not write because the windows break an invariant."""
    if change is None:
        return []
    return [
        RefusedWindow(row["check"], row["exchange"], row["symbol"], timeframe.window(row["window_start"]))
        for row in change.refused.to_dicts()
    ]


def partition_reports(
    timeframe: Timeframe, change: CandleFileChange, computed: pl.DataFrame, chunk: Sequence[Interval]
) -> Iterator[PartitionReport]:
    """Yield a report for each partition of a chunk.

    Args:
        timeframe: the timeframe of the candle table.
        change: the change of the candle files, with the outcome of each window.
        computed: the candles computed from the trades.
        chunk: the reconciled intervals.
    """
    start = partition_start_of("window_start", timeframe)
    trades = dict(computed.group_by(start).agg(pl.col("trade_count").sum()).iter_rows())
    outcomes: dict[datetime, dict[str, int]] = {}
    for partition_start, outcome, count in change.outcomes.group_by(start, "outcome").len().iter_rows():
        outcomes.setdefault(partition_start, {})[outcome] = count
    for partition in timeframe.grain.partitions(chunk):
        counts = WindowCounts(**outcomes.get(partition.start, {}))
        yield PartitionReport(partition, counts, trades.get(partition.start, 0))
