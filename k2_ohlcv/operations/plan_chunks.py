"""Splits a plan into chunks, one commit each, so that memory stays bounded. The plan itself is in `plan`.

A chunk is bounded by its trades and by its windows. The number of windows is known only after a chunk is
computed, so each chunk is sized by the windows per trade of the chunk before.
"""

from collections.abc import Collection, Iterator, Sequence

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.row_estimates import RowsPerDay
from k2_ohlcv.operations.plan import Plan

#: The maximum number of trades to read for one commit.
MAX_CHUNK_TRADES = 12_500_000
#: The maximum number of trades of the first chunk, before the windows per trade are known.
MAX_FIRST_TRADES = 2_500_000


class Chunks:
    """The chunks of a plan in order of time, each a list of whole windows.

    Args:
        plan: the plan.
        files: the live files of the trades.
        max_windows: the number of windows that one commit should have at most.
        indivisible: partitions that one commit must reconcile as a whole.
    """

    def __init__(
        self,
        plan: Plan,
        files: Sequence[LiveFile],
        *,
        max_windows: int,
        indivisible: Collection[Interval] = (),
    ) -> None:
        self._plan = plan
        self._trades = RowsPerDay(files)
        self._max_windows = max_windows
        self._max_trades: float = min(MAX_FIRST_TRADES, MAX_CHUNK_TRADES)
        self._indivisible = set(indivisible)

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
