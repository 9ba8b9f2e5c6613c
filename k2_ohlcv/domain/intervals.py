"""Half-open intervals of UTC time, and set operations on them.

Windows and partitions are in `timeframe`. This module knows neither.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)
#: The last moment that a datetime can represent. An interval that would end later ends here.
LAST_MOMENT = datetime.max.replace(tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """Convert a moment to microseconds since the UTC epoch, in exact integer arithmetic."""
    return (moment - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Convert microseconds since the epoch to a UTC moment."""
    return EPOCH + timedelta(microseconds=micros)


def add_clamped(moment: datetime, by: timedelta) -> datetime:
    """Add a duration to a moment. The result is at most `LAST_MOMENT`."""
    return moment + by if LAST_MOMENT - moment > by else LAST_MOMENT


def day_start(day: date) -> datetime:
    """Return the UTC moment at which a day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@dataclass(frozen=True, order=True)
class Interval:
    """The moments from `start` up to but not including `end`, both timezone-aware UTC datetimes."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.utcoffset() != timedelta(0) or self.end.utcoffset() != timedelta(0):
            raise ValueError(f"an interval is in UTC: {self.start!r} to {self.end!r}")
        if self.start >= self.end:
            raise ValueError(f"an interval ends after it starts: {self.start} to {self.end}")

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%dT%H:%M:%S}, {self.end:%Y-%m-%dT%H:%M:%S})"

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    @property
    def last(self) -> datetime:
        """The last microsecond in the interval."""
        return self.end - MICROSECOND

    def intersect(self, other: "Interval") -> "Interval | None":
        """Return the overlap of the two intervals, or None."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Interval(start, end) if start < end else None

    def days(self) -> Iterator[date]:
        """Yield the UTC days that overlap this interval, in order."""
        day = self.start.date()
        while day_start(day) < self.end:
            yield day
            if day == date.max:
                break
            day += DAY


def coalesce(intervals: Iterable[Interval]) -> list[Interval]:
    """Sort intervals, and merge those that overlap or touch."""
    merged: list[Interval] = []
    for interval in sorted(intervals):
        if merged and interval.start <= merged[-1].end:
            if interval.end > merged[-1].end:
                merged[-1] = Interval(merged[-1].start, interval.end)
        else:
            merged.append(interval)
    return merged


def intersect_all(left: Iterable[Interval], right: Iterable[Interval]) -> list[Interval]:
    """Return the moments that lie in both sets of intervals, coalesced."""
    right_set = IntervalSet(right)
    return coalesce(overlap for interval in left for overlap in right_set.clip(interval))


def subtract(outer: Iterable[Interval], inner: Iterable[Interval]) -> list[Interval]:
    """Return the moments of `outer` that are not in `inner`, coalesced."""
    holes = IntervalSet(inner)
    remaining: list[Interval] = []
    for interval in coalesce(outer):
        start = interval.start
        for hole in holes.clip(interval):
            if start < hole.start:
                remaining.append(Interval(start, hole.start))
            start = hole.end
        if start < interval.end:
            remaining.append(Interval(start, interval.end))
    return remaining


class IntervalSet:
    """A fixed set of moments, for many questions about overlaps.

    Args:
        intervals: in any order. Intervals that overlap or touch are merged.
    """

    def __init__(self, intervals: Iterable[Interval]) -> None:
        self._intervals = coalesce(intervals)
        self._ends = [interval.end for interval in self._intervals]

    def has_overlap(self, interval: Interval) -> bool:
        """Whether the interval has a moment in the set."""
        return any(True for _ in self._overlapping(interval))

    def clip(self, interval: Interval) -> list[Interval]:
        """Return the parts of the interval in the set, in order."""
        return [overlap for i in self._overlapping(interval) if (overlap := i.intersect(interval))]

    def _overlapping(self, interval: Interval) -> Iterator[Interval]:
        for index in range(bisect_right(self._ends, interval.start), len(self._intervals)):
            if self._intervals[index].start >= interval.end:
                return
            yield self._intervals[index]


def is_covered(outer: Iterable[Interval], inner: Iterable[Interval]) -> bool:
    """Whether every moment of `inner` lies in `outer`."""
    inner = coalesce(inner)
    return intersect_all(outer, inner) == inner


def merge_to_at_most(intervals: Iterable[Interval], most: int) -> list[Interval]:
    """Merge intervals across their narrowest gaps until at most `most` remain.

    The result bounds the size of a predicate over many scattered windows. Engines read a little more, but
    thousands of alternatives in a predicate would be slow or would fail.
    """
    merged = coalesce(intervals)
    if len(merged) <= most:
        return merged
    gaps = [(after.start - before.end, i) for i, (before, after) in enumerate(pairwise(merged))]
    filled = {i for _, i in sorted(gaps)[: len(merged) - most]}
    bounded = [merged[0]]
    for i, interval in enumerate(merged[1:]):
        if i in filled:
            bounded[-1] = Interval(bounded[-1].start, interval.end)
        else:
            bounded.append(interval)
    return bounded
