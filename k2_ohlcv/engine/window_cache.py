"""Candle windows that one scan computed for several timeframes, kept until their tables ask for them.

How windows are computed is in `rollup`. The totals that checks share are in `totals`.
"""

from collections.abc import Iterable, Sequence
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain.intervals import Interval, coalesce, is_covered, subtract
from k2_ohlcv.domain.timeframe import Timeframe

#: Rows that may be kept for the other tables of the same run: about 250 MB.
_MAX_CACHED_ROWS = 1_000_000


class WindowCache:
    """Windows of the timeframes that are computed together. Each window is given out once.

    Args:
        timeframes: a scan for one of them also computes the longer ones of them.
    """

    def __init__(self, timeframes: Iterable[Timeframe]) -> None:
        self.timeframes = tuple(timeframes)
        self._kept: dict[tuple[int, str], tuple[list[Interval], pa.Table]] = {}

    def put(self, snapshot: int, name: str, intervals: list[Interval], windows: pa.Table) -> None:
        """Keep these windows beside those of earlier scans of the snapshot, unless there are too many."""
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] == snapshot}
        if windows.num_rows + sum(kept.num_rows for _, kept in self._kept.values()) > _MAX_CACHED_ROWS:
            return
        spans, kept = self._kept.get((snapshot, name), ([], windows.slice(0, 0)))
        others = kept.filter(pc.invert(is_within(kept["window_start"], intervals)))
        self._kept[snapshot, name] = (coalesce([*spans, *intervals]), pa.concat_tables([others, windows]))

    def pop(self, snapshot: int, name: str, intervals: list[Interval]) -> pa.Table | None:
        """The windows of exactly these intervals, or None. They are not kept any longer."""
        spans, kept = self._kept.get((snapshot, name), ([], None))
        if kept is None or not is_covered(spans, intervals):
            return None
        popped = is_within(kept["window_start"], intervals)
        self._kept[snapshot, name] = (subtract(spans, intervals), kept.filter(pc.invert(popped)))
        return kept.filter(popped)


def is_within(moments: pa.ChunkedArray, intervals: Sequence[Interval]) -> pa.ChunkedArray:
    """Which of some moments lie in one of the intervals, of which there is at least one."""
    masks = [pc.and_(pc.greater_equal(moments, i.start), pc.less(moments, i.end)) for i in intervals]
    return reduce(pc.or_, masks)
