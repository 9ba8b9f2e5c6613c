"""Splits a plan into chunks, one commit each, so that memory stays bounded. The plan itself is in `plan`.

A chunk is bounded by its trades and by its windows. The number of windows is known only after a chunk is
computed, so each chunk is sized by the windows per trade of the chunk before.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.operations.plan import Plan

#: The maximum number of trades to read for one commit.
MAX_CHUNK_TRADES = 12_500_000
#: The maximum number of trades of the first chunk, before the windows per trade are known.
MAX_FIRST_TRADES = 2_500_000
#: A partition with too many trades is cut into pieces of at least this length.
_LEAST_PIECE = timedelta(hours=1)


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
        self._trades = TradesPerDay(files)
        self._max_windows = max_windows
        self._max_trades: float = MAX_FIRST_TRADES
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
                    yield from ([piece] for piece in _cut(interval, self._plan.timeframe))


def _cut(interval: Interval, timeframe: Timeframe) -> Iterator[Interval]:
    """Cut an interval into pieces of whole windows and at least `_LEAST_PIECE`."""
    length = max(timeframe.length, _LEAST_PIECE)
    start = interval.start
    while start < interval.end:
        end = min(interval.end, timeframe.floor(start) + length)
        yield Interval(start, end)
        start = end


class TradesPerDay:
    """Estimates the number of trades of intervals, from the rows and time spans of files."""

    def __init__(self, files: Sequence[LiveFile]) -> None:
        self._rows: dict[datetime, float] = defaultdict(float)
        for file in files:
            if not file.is_delete:
                length = file.span.end - file.span.start
                for day in Grain.DAY.partitions([file.span]):
                    overlap = file.span.intersect(day)
                    assert overlap
                    self._rows[day.start] += file.file.record_count * ((overlap.end - overlap.start) / length)

    def estimate(self, interval: Interval) -> float:
        """Estimate the trades of an interval, as if the trades of a day were spread evenly."""
        rows = 0.0
        for day in Grain.DAY.partitions([interval]):
            overlap = interval.intersect(day)
            assert overlap
            rows += self._rows.get(day.start, 0.0) * ((overlap.end - overlap.start) / (day.end - day.start))
        return rows
