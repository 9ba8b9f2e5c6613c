"""Caches rows that one scan computed for several timeframes, until each table reads them.

The rows are windows or totals of windows. Computing windows is in `rollup`, totals for checks in `totals`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all, is_covered, subtract
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import is_in_intervals
from k2_ohlcv.frames.windows import roll_up

#: The most cached rows for other tables of the same run, about 150 MB.
_MAX_CACHED_ROWS = 1_000_000


@dataclass(frozen=True)
class _Entry:
    """Rows for one timeframe.

    Attributes:
        spans: the intervals whose rows are in `rows`.
        rows: windows of the timeframe, or shorter ones that together cover the spans.
        is_rolled_up: whether all windows have the timeframe's length.
    """

    spans: Sequence[Interval]
    rows: pl.DataFrame
    is_rolled_up: bool


class RollupCache(ABC):
    """Rows of the timeframes that are computed together. Each row is read once.

    Args:
        timeframes: a scan for one timeframe also gives the rows of the longer ones.
    """

    def __init__(self, timeframes: Iterable[Timeframe]) -> None:
        self.timeframes = tuple(sorted(timeframes, key=lambda t: t.length))
        self._entries: dict[tuple[int, str], _Entry] = {}

    @abstractmethod
    def _roll_up(self, rows: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        """Roll up rows of shorter windows into rows of a timeframe."""

    def put_longer(
        self, snapshot: int, timeframe: Timeframe, intervals: Sequence[Interval], rows: pl.DataFrame
    ) -> None:
        """Add the rows of all longer timeframes, rolled up from the rows of a timeframe.

        If the intervals cut windows of a longer timeframe, that timeframe gets the longest whole windows.
        `pop` rolls up the parts of several scans. If the cache is full, shorter windows are left out first.
        """
        rolled: list[tuple[Timeframe, pl.DataFrame, bool]] = []
        for longer in self.timeframes:
            if longer.length > timeframe.length:
                is_whole = longer.align(intervals) == coalesce(intervals)
                rows = self._roll_up(rows, longer) if is_whole else rows
                rolled.append((longer, rows, is_whole))
        for longer, rows, is_whole in reversed(rolled):
            self._put(snapshot, longer, intervals, rows, is_rolled_up=is_whole)

    def _put(
        self,
        snapshot: int,
        timeframe: Timeframe,
        intervals: Sequence[Interval],
        rows: pl.DataFrame,
        *,
        is_rolled_up: bool,
    ) -> None:
        """Add rows of a snapshot, unless the cache is full. Rows of other snapshots are removed.

        Rows of an earlier scan in the same windows are removed. They may be of another length, so that both
        together would count trades twice.
        """
        self._entries = {key: entry for key, entry in self._entries.items() if key[0] == snapshot}
        entry = self._entries.pop((snapshot, timeframe.name), _Entry([], rows.clear(), True))
        if replaced := timeframe.align(intersect_all(entry.spans, intervals)):
            kept = entry.rows.filter(~is_in_intervals("window_start", replaced))
            entry = _Entry(subtract(entry.spans, replaced), kept, entry.is_rolled_up)
        cached = sum(other.rows.height for other in self._entries.values()) + entry.rows.height
        if rows.height + cached <= _MAX_CACHED_ROWS:
            entry = _Entry(
                coalesce([*entry.spans, *intervals]),
                pl.concat([entry.rows, rows]),
                entry.is_rolled_up and is_rolled_up,
            )
        self._entries[snapshot, timeframe.name] = entry

    def pop(self, snapshot: int, timeframe: Timeframe, intervals: Sequence[Interval]) -> pl.DataFrame | None:
        """Remove and return the rows of the intervals. None if the cache does not cover the intervals."""
        entry = self._entries.get((snapshot, timeframe.name))
        if entry is None or not is_covered(entry.spans, intervals):
            return None
        is_popped = is_in_intervals("window_start", intervals)
        self._entries[snapshot, timeframe.name] = _Entry(
            subtract(entry.spans, intervals), entry.rows.filter(~is_popped), entry.is_rolled_up
        )
        popped = entry.rows.filter(is_popped)
        return popped if entry.is_rolled_up else self._roll_up(popped, timeframe)


class WindowCache(RollupCache):
    """Windows in the columns of `frames.windows.WINDOW_SCHEMA`."""

    def _roll_up(self, rows: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        return roll_up(rows, timeframe)
