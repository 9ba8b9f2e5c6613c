"""Splits a plan into chunks, one commit each, so that memory stays bounded. The plan itself is in `plan`.

A chunk is bounded by its trades and by its windows. The number of windows is known only after a chunk is
computed. The first chunk is therefore sized by a sample of the trades, and each other one by the windows per
trade of the chunk before.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from k2_ohlcv.domain.intervals import Interval, IntervalSet, coalesce
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.row_estimates import RowsPerDay
from k2_ohlcv.operations.plan import Plan

#: The maximum number of trades to read for one commit.
MAX_CHUNK_TRADES = 12_500_000


class Chunks:
    """The chunks of a plan in order of time, each a list of whole windows.

    Args:
        plan: the plan.
        files: the live data files of the trades that overlap the plan.
        max_windows: the number of windows that one commit should have at most.
        sample: estimates the windows per trade from a file of trades.
        indivisible: partitions that one commit must reconcile as a whole.
    """

    def __init__(
        self,
        plan: Plan,
        files: Sequence[LiveFile],
        *,
        max_windows: int,
        sample: Callable[[LiveFile], float],
        indivisible: Collection[Interval] = (),
    ) -> None:
        self._plan = plan
        self._max_windows = max_windows
        self._indivisible = set(indivisible)
        self._max_trades: float = min(max_windows, MAX_CHUNK_TRADES)
        self._trades = RowsPerDay(files)
        if self.estimate(plan.intervals) > self._max_trades:
            largest = max(files, key=lambda f: f.file.record_count)
            self._max_trades = min(MAX_CHUNK_TRADES, max_windows / max(sample(largest), 1e-6))

    def estimate(self, intervals: Sequence[Interval]) -> float:
        """Estimate the trades of some intervals of the plan."""
        return sum(map(self._trades.estimate, intervals))

    def add_result(self, trades: int, windows: int) -> None:
        """Adapt the size of the next chunks to the numbers of trades and windows of the last one."""
        if windows:
            self._max_trades = min(MAX_CHUNK_TRADES, self._max_windows * trades / windows)

    def __iter__(self) -> Iterator[list[Interval]]:
        chunk: list[Interval] = []
        size = 0.0
        planned = IntervalSet(self._plan.intervals)
        pending = deque(planned.clip(partition) for partition in self._plan.partitions)
        while pending:
            piece = pending.popleft()
            rows = self.estimate(piece)
            if rows > self._max_trades and len(parts := self._cut(piece)) > 1:
                pending.extendleft([part] for part in reversed(parts))
            elif chunk and size + rows > self._max_trades:
                yield coalesce(chunk)
                chunk, size = [], 0.0
                pending.appendleft(piece)  # the limit may be lower now
            else:
                chunk, size = [*chunk, *piece], size + rows
        if chunk:
            yield coalesce(chunk)

    def _cut(self, piece: list[Interval]) -> list[Interval]:
        """Cut a part of one partition into the smallest pieces, unless the partition must be whole."""
        timeframe = self._plan.timeframe
        if timeframe.grain.partition(piece[0].start) in self._indivisible:
            return piece[:1]
        return [part for interval in piece for part in timeframe.cut(interval)]
