"""How far a rebuild or refresh is: partitions done, trades a second, time left. Callers show it."""

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from k2_ohlcv.domain.intervals import Interval, IntervalSet
from k2_ohlcv.operations.plan import Plan


@dataclass(frozen=True)
class RunProgress:
    """How far the run of one candle table is.

    Attributes:
        table: the table.
        partitions_done: the partitions that are committed in full.
        partitions: all partitions of the plan.
        trades: the trades of the committed windows.
        seconds: the time since the first chunk began.
        expected_done: the trades of the committed windows, as estimated before they were read.
        expected: the estimated trades of the whole plan.
    """

    table: str
    partitions_done: int
    partitions: int
    trades: int
    seconds: float
    expected_done: float
    expected: float

    @property
    def trades_per_second(self) -> int | None:
        """The trades read a second; None before the first commit."""
        return round(self.trades / self.seconds) if self.trades and self.seconds else None

    @property
    def seconds_left(self) -> int | None:
        """The estimated trades that are left, at the rate of those done; None without an estimate."""
        if not self.expected_done or not self.seconds:
            return None
        return round((self.expected - self.expected_done) * self.seconds / self.expected_done)

    def as_json(self) -> dict[str, object]:
        """The numbers as one JSON object."""
        return {
            "table": self.table,
            "partitions_done": self.partitions_done,
            "partitions": self.partitions,
            "trades": self.trades,
            "trades_per_second": self.trades_per_second,
            "seconds_left": self.seconds_left,
        }

    def __str__(self) -> str:
        parts = [f"{self.partitions_done:,} of {self.partitions:,} partitions"]
        if self.trades_per_second is not None:
            parts.append(f"{self.trades_per_second:,} trades/s")
        if self.seconds_left is not None:
            parts.append(f"{timedelta(seconds=self.seconds_left)} left")
        return f"{self.table}: {', '.join(parts)}"


class ProgressMeter:
    """Measures the progress of a plan, and tells it before the first chunk and after each commit.

    Args:
        plan: the plan. Its chunks come in order of time.
        estimate: estimates the trades of intervals.
        show: gets the progress.
        clock: the time in seconds.
    """

    def __init__(
        self,
        plan: Plan,
        estimate: Callable[[Sequence[Interval]], float],
        show: Callable[[RunProgress], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        planned = IntervalSet(plan.intervals)
        self._table = plan.timeframe.table
        self._ends = [planned.clip(partition)[-1].end for partition in plan.partitions]
        self._estimate, self._show, self._clock = estimate, show, clock
        self._expected = estimate(plan.intervals)
        self._done, self._trades, self._expected_done = 0, 0, 0.0
        self._start = clock()
        self._tell()

    def add_commit(self, chunk: Sequence[Interval], trades: int) -> None:
        """Count a committed chunk and the trades that were read for it."""
        self._done = bisect_right(self._ends, chunk[-1].end)
        self._trades += trades
        self._expected_done += self._estimate(chunk)
        self._tell()

    def _tell(self) -> None:
        seconds = self._clock() - self._start
        self._show(
            RunProgress(
                self._table,
                self._done,
                len(self._ends),
                self._trades,
                seconds,
                self._expected_done,
                self._expected,
            )
        )
