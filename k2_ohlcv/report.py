"""What a reconciliation did, in numbers. Made by `reconcile`, shown by the graph and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass

from k2_ohlcv.domain.errors import GateError
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.window import Interval
from k2_ohlcv.domain.window_counts import WindowCounts
from k2_ohlcv.lake.watermark import RefusedWindow, Watermark
from k2_ohlcv.plan import Plan


@dataclass(frozen=True)
class PartitionReport:
    """What became of one partition: its windows, and the trades that they were made from."""

    partition: Interval
    counts: WindowCounts
    trades: int


@dataclass(frozen=True)
class Report:
    """What one reconciliation of a table did.

    Attributes:
        plan: what was to be done, and why.
        committed: whether any commit was made, be it of the watermark alone.
        seconds: wall time, retries included.
        partitions: a report for each partition that was looked at and has or had windows.
        refused: windows that break an invariant, and stay as they were.
        mark: the watermark of the table afterwards; None where trades have no snapshot.
    """

    plan: Plan
    committed: bool
    seconds: float
    partitions: tuple[PartitionReport, ...]
    refused: tuple[RefusedWindow, ...] = ()
    mark: Watermark | None = None

    @property
    def timeframe(self) -> Timeframe:
        """The table."""
        return self.plan.timeframe

    @property
    def trades_snapshot(self) -> int | None:
        """The trades snapshot that the windows were made equal to; None where there are no trades at all."""
        return self.plan.trades_to

    @property
    def watermark_moved(self) -> bool:
        """Whether the watermark now says `trades_snapshot`."""
        return self.mark is not None and self.mark.is_complete

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


class RefusedWindowsError(GateError):
    """Some windows break an invariant and stay as they were; all others are committed.

    Attributes:
        report: what was done.
    """

    def __init__(self, message: str, checks: Mapping[str, int], report: Report) -> None:
        super().__init__(message, checks)
        self.report = report
