"""Caches windows that one scan of trades computed for several timeframes, until each table reads them.

Computing windows is in `rollup`. Totals for checks are in `totals`.
"""

from collections.abc import Iterable, Sequence
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain.intervals import Interval, coalesce, is_covered, subtract
from k2_ohlcv.domain.timeframe import Timeframe

#: The most cached rows for other tables of the same run, about 250 MB.
_MAX_CACHED_ROWS = 1_000_000


class WindowCache:
    """Windows of the timeframes that are computed together. Each window is read once.

    Args:
        timeframes: a scan for one timeframe also computes the longer ones.
    """

    def __init__(self, timeframes: Iterable[Timeframe]) -> None:
        self.timeframes = tuple(timeframes)
        self._cached: dict[tuple[int, str], tuple[list[Interval], pa.Table]] = {}

    def put(self, snapshot: int, name: str, intervals: list[Interval], windows: pa.Table) -> None:
        """Add windows of a snapshot to the cache, unless the cache is full. Other snapshots are removed."""
        self._cached = {key: entry for key, entry in self._cached.items() if key[0] == snapshot}
        if windows.num_rows + sum(rows.num_rows for _, rows in self._cached.values()) > _MAX_CACHED_ROWS:
            return
        spans, cached = self._cached.get((snapshot, name), ([], windows.slice(0, 0)))
        outside = cached.filter(pc.invert(is_within(cached["window_start"], intervals)))
        self._cached[snapshot, name] = (coalesce([*spans, *intervals]), pa.concat_tables([outside, windows]))

    def pop(self, snapshot: int, name: str, intervals: list[Interval]) -> pa.Table | None:
        """Remove and return the windows of the intervals. None if the cache does not cover the intervals."""
        spans, cached = self._cached.get((snapshot, name), ([], None))
        if cached is None or not is_covered(spans, intervals):
            return None
        popped = is_within(cached["window_start"], intervals)
        self._cached[snapshot, name] = (subtract(spans, intervals), cached.filter(pc.invert(popped)))
        return cached.filter(popped)


def is_within(moments: pa.ChunkedArray, intervals: Sequence[Interval]) -> pa.ChunkedArray:
    """The mask of times inside any of the intervals. There is at least one interval."""
    masks = [pc.and_(pc.greater_equal(moments, i.start), pc.less(moments, i.end)) for i in intervals]
    return reduce(pc.or_, masks)
