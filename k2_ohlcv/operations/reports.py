"""What a reconciliation did, in numbers. Made by `reconcile`, shown by the graph and the command line."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from k2_ohlcv.domain.errors import InvariantError
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.domain.window_counts import WindowCounts
from k2_ohlcv.frames.candles import MAX_SAMPLE_ROWS
from k2_ohlcv.lake.candles import CandleFileChange
from k2_ohlcv.lake.watermark import RefusedWindow, Watermark
from k2_ohlcv.operations.plan import Plan


@dataclass(frozen=True)
class ReconciledWindows:
    """The windows that a run made equal to the trades.

    Attributes:
        snapshot: the trades snapshot; None where trades have none.
        intervals: whole windows.
        refused: those of them that break an invariant, and stay as they were.
    """

    snapshot: int | None
    intervals: tuple[Interval, ...]
    refused: tuple[RefusedWindow, ...] = ()


@dataclass(frozen=True)
class PartitionReport:
    """What became of one partition: its windows, and the trades that they were made from."""

    partition: Interval
    counts: WindowCounts
    trades: int


@dataclass(frozen=True)
class ReconcileReport:
    """What one reconciliation of a table did.

    Attributes:
        plan: what was to be done, and why.
        committed: whether any commit was made, be it of the watermark alone.
        seconds: wall time, retries included.
        partitions: a report for each partition that was looked at and has or had windows.
        refused: windows that break an invariant, and stay as they were.
        watermark: the watermark of the table afterwards; None where trades have no snapshot.
    """

    plan: Plan
    committed: bool
    seconds: float
    partitions: tuple[PartitionReport, ...]
    refused: tuple[RefusedWindow, ...] = ()
    watermark: Watermark | None = None

    @property
    def timeframe(self) -> Timeframe:
        """The table."""
        return self.plan.timeframe

    @property
    def trades_snapshot(self) -> int | None:
        """The trades snapshot that the windows were made equal to; None where there are no trades at all."""
        return self.plan.trades_to

    @property
    def reconciled_windows(self) -> ReconciledWindows:
        """The windows that were made equal to the trades."""
        return ReconciledWindows(self.trades_snapshot, self.plan.intervals, self.refused)

    @property
    def watermark_moved(self) -> bool:
        """Whether the watermark now says `trades_snapshot`."""
        return self.watermark is not None and self.watermark.is_complete

    @property
    def counts(self) -> WindowCounts:
        """What became of the windows of all partitions."""
        return sum((p.counts for p in self.partitions), WindowCounts())

    @property
    def trades_read(self) -> int:
        """Trades in the reconciled windows."""
        return sum(p.trades for p in self.partitions)

    def as_json(self) -> dict[str, object]:
        """The report as one JSON object."""
        return {
            **self.plan.as_json(),
            **self.counts.as_json(),
            "refused": len(self.refused),
            "trades_read": self.trades_read,
            "committed": self.committed,
            "seconds": round(self.seconds, 3),
        }


class RefusedWindowsError(InvariantError):
    """Some windows break an invariant and stay as they were; all others are committed.

    Attributes:
        report: what was done.
    """

    def __init__(self, message: str, checks: Mapping[str, int], report: ReconcileReport) -> None:
        super().__init__(message, checks)
        self.report = report

    @classmethod
    def from_report(
        cls, report: ReconcileReport, *, owns_trades: bool, misfits: str
    ) -> "RefusedWindowsError":
        """The error of a report with refused windows.

        Args:
            report: what was done.
            owns_trades: whether the trades table is ours to correct.
            misfits: names trades that cannot be read exactly, or is empty.
        """
        shown = [str(window) for window in report.refused[:MAX_SAMPLE_ROWS]]
        more = (
            f" and {len(report.refused) - MAX_SAMPLE_ROWS:,} more"
            if len(report.refused) > MAX_SAMPLE_ROWS
            else ""
        )
        counts = Counter(window.check for window in report.refused)
        named = f"{len(report.refused):,} windows of {report.timeframe.table} break {', '.join(counts)}: "
        todo = (
            "Correct or delete their trades (k2-ohlcv trades delete), then refresh"
            if owns_trades
            else "Their trades have to be corrected by the owner of the table, then refresh"
        )
        told = f"{named}{'; '.join(shown)}{more}. They stay as they were; all others are committed. {todo}"
        return cls(f"{told}. {misfits}" if misfits else told, counts, report)


def refused_windows(change: CandleFileChange | None, timeframe: Timeframe) -> list[RefusedWindow]:
    """The windows that a change leaves as they were, since they break an invariant."""
    if change is None:
        return []
    return [
        RefusedWindow(row["check"], row["exchange"], row["symbol"], timeframe.window(row["window_start"]))
        for row in change.refused.to_dicts()
    ]


def partition_reports(
    timeframe: Timeframe, change: CandleFileChange, computed: pl.DataFrame, chunk: Sequence[Interval]
) -> Iterator[PartitionReport]:
    """A report for each partition of a chunk of whole windows.

    Args:
        timeframe: the candle table.
        change: what became of the windows.
        computed: the windows that trades make.
        chunk: the intervals that were looked at.
    """
    start = pl.col("window_start").dt.truncate("1d" if timeframe.grain is Grain.DAY else "1mo")
    trades = dict(computed.group_by(start).agg(pl.col("trade_count").sum()).iter_rows())
    outcomes: dict[datetime, dict[str, int]] = {}
    for partition_start, outcome, count in change.outcomes.group_by(start, "outcome").len().iter_rows():
        outcomes.setdefault(partition_start, {})[outcome] = count
    for partition in timeframe.grain.partitions(chunk):
        counts = WindowCounts(**outcomes.get(partition.start, {}))
        yield PartitionReport(partition, counts, trades.get(partition.start, 0))
