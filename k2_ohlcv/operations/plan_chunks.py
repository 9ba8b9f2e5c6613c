"""Splits a plan into chunks, one commit each, so that memory stays bounded. The plan itself is in `plan`.

A chunk is bounded by its trades and by its windows. The number of windows is known only after a chunk is
computed. The first chunk is therefore sized by a sample of the trades, and each other one by the windows per
trade of the chunk before.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

from k2_ohlcv.domain.intervals import Interval, IntervalSet, coalesce, intersect_all
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.row_estimates import RowsPerDay
from k2_ohlcv.operations.plan import Plan

#: The maximum number of trades to read for one commit.
MAX_CHUNK_TRADES = 12_500_000


class Chunks:
    """The chunks of a plan in order of time, each a list of whole windows.

    Args:
        plan: the plan.
        files: the live files of the trades.
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
        self._trades = RowsPerDay(files)
        self._max_windows = max_windows
        self._indivisible = set(indivisible)
        self._max_trades: float = min(max_windows, MAX_CHUNK_TRADES)
        covered = IntervalSet(plan.intervals)
        largest = max(
            (f for f in files if not f.is_delete and covered.has_overlap(f.span)),
            key=lambda f: f.file.record_count,
            default=None,
        )
        if largest and sum(map(self._trades.estimate, plan.intervals)) > self._max_trades:
            self._max_trades = min(MAX_CHUNK_TRADES, max_windows / max(sample(largest), 1e-6))

    def add_result(self, trades: int, windows: int) -> None:
        """Adapt the size of the next chunks to the numbers of trades and windows of the last one."""
        if windows:
            self._max_trades = min(MAX_CHUNK_TRADES, self._max_windows * trades / windows)

    def __iter__(self) -> Iterator[list[Interval]]:
        chunk: list[Interval] = []
        trades_count = 0.0
        for piece in self._pieces():
            rows = sum(map(self._trades.estimate, piece))
            if chunk and trades_count + rows > self._max_trades:
                yield coalesce(chunk)
                chunk, trades_count = [], 0.0
            chunk += piece
            trades_count += rows
        if chunk:
            yield coalesce(chunk)

    def _pieces(self) -> Iterator[list[Interval]]:
        """The intervals of each partition, cut into pieces if the partition is too large for a chunk."""
        for partition in self._plan.partitions:
            intervals = intersect_all(self._plan.intervals, [partition])
            rows = sum(map(self._trades.estimate, intervals))
            if rows <= self._max_trades or partition in self._indivisible:
                yield intervals
            else:
                for interval in intervals:
                    yield from ([piece] for piece in self._plan.timeframe.cut(interval))
