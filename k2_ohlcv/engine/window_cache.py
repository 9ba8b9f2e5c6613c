"""Caches windows that one scan of trades computed for several timeframes, until each table reads them.

Computing windows is in `rollup`. Totals for checks are in `totals`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain.intervals import Interval, coalesce, is_covered, subtract
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import is_in_intervals
from k2_ohlcv.frames.windows import WINDOW_SCHEMA, roll_up

#: The most cached rows for other tables of the same run, about 150 MB.
_MAX_CACHED_ROWS = 1_000_000


@dataclass(frozen=True)
class _Entry:
    """Windows for one timeframe.

    Attributes:
        spans: the intervals whose windows are in `windows`.
        windows: windows of the timeframe, or shorter ones that together cover the spans.
        is_rolled_up: whether all windows have the timeframe's length.
    """

    spans: Sequence[Interval]
    windows: pa.Table
    is_rolled_up: bool


class WindowCache:
    """Windows of the timeframes that are computed together. Each window is read once.

    Args:
        timeframes: a scan for one timeframe also gives the windows of the longer ones.
    """

    def __init__(self, timeframes: Iterable[Timeframe]) -> None:
        self.timeframes = tuple(sorted(timeframes, key=lambda t: t.length))
        self._entries: dict[tuple[int, str], _Entry] = {}

    def put_longer(
        self, snapshot: int, timeframe: Timeframe, intervals: Sequence[Interval], windows: pa.Table
    ) -> None:
        """Add the windows of all longer timeframes, rolled up from the windows of a timeframe.

        If the intervals cut windows of a longer timeframe, that timeframe gets the longest whole windows.
        `pop` rolls up the parts of several scans.
        """
        for longer in self.timeframes:
            if longer.length > timeframe.length:
                is_whole = longer.align(intervals) == list(intervals)
                windows = roll_up(windows, longer) if is_whole else windows
                self._put(snapshot, longer, intervals, windows, is_rolled_up=is_whole)

    def _put(
        self,
        snapshot: int,
        timeframe: Timeframe,
        intervals: Sequence[Interval],
        windows: pa.Table,
        *,
        is_rolled_up: bool,
    ) -> None:
        """Add windows of a snapshot, unless the cache is full. Windows of other snapshots are removed."""
        self._entries = {key: entry for key, entry in self._entries.items() if key[0] == snapshot}
        if windows.num_rows + sum(e.windows.num_rows for e in self._entries.values()) > _MAX_CACHED_ROWS:
            return
        entry = self._entries.get((snapshot, timeframe.name), _Entry([], WINDOW_SCHEMA.empty_table(), True))
        outside = entry.windows.filter(pc.invert(is_within(entry.windows["window_start"], intervals)))
        self._entries[snapshot, timeframe.name] = _Entry(
            coalesce([*entry.spans, *intervals]),
            pa.concat_tables([outside, windows]),
            entry.is_rolled_up and is_rolled_up,
        )

    def pop(self, snapshot: int, timeframe: Timeframe, intervals: Sequence[Interval]) -> pa.Table | None:
        """Remove and return the windows of the intervals. None if the cache does not cover the intervals."""
        entry = self._entries.get((snapshot, timeframe.name))
        if entry is None or not is_covered(entry.spans, intervals):
            return None
        is_popped = is_within(entry.windows["window_start"], intervals)
        self._entries[snapshot, timeframe.name] = _Entry(
            subtract(entry.spans, intervals), entry.windows.filter(pc.invert(is_popped)), entry.is_rolled_up
        )
        popped = entry.windows.filter(is_popped)
        return popped if entry.is_rolled_up else roll_up(popped, timeframe)


def is_within(moments: pa.ChunkedArray, intervals: Sequence[Interval]) -> pa.ChunkedArray:
    """The mask of times inside any of the intervals."""
    frame = pl.DataFrame({"moment": moments})
    return pa.chunked_array([frame.select(is_in_intervals("moment", intervals)).to_series().to_arrow()])
