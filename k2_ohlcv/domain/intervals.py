"""Half-open intervals of time, in UTC, and the arithmetic on them.

What a timeframe's windows are is in `timeframe`; here is only what holds for any interval.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)
#: The last moment that a datetime can say: what would end later ends here.
LAST_MOMENT = datetime.max.replace(tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """Microseconds since the UTC epoch, exactly (no float on the way)."""
    return (moment - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """The UTC moment of so many microseconds since the epoch."""
    return EPOCH + timedelta(microseconds=micros)


def add_clamped(moment: datetime, by: timedelta) -> datetime:
    """A moment so much later, or the last that there is."""
    return moment + by if LAST_MOMENT - moment > by else LAST_MOMENT


def day_start(day: date) -> datetime:
    """The UTC moment at which a day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@dataclass(frozen=True, order=True)
class Interval:
    """The moments from `start` up to but not including `end`, both aware UTC datetimes."""

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
        """The last microsecond in it."""
        return self.end - MICROSECOND

    def intersect(self, other: "Interval") -> "Interval | None":
        """What lies in both, or None."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Interval(start, end) if start < end else None

    def days(self) -> Iterator[date]:
        """The UTC days that this interval touches, in order."""
        day = self.start.date()
        while day_start(day) < self.end:
            yield day
            if day == date.max:
                break
            day += DAY


def coalesce(intervals: Iterable[Interval]) -> list[Interval]:
    """The same moments as sorted, disjoint intervals: overlapping and touching ones become one."""
    merged: list[Interval] = []
    for interval in sorted(intervals):
        if merged and interval.start <= merged[-1].end:
            if interval.end > merged[-1].end:
                merged[-1] = Interval(merged[-1].start, interval.end)
        else:
            merged.append(interval)
    return merged


def intersect_all(left: Iterable[Interval], right: Iterable[Interval]) -> list[Interval]:
    """The moments that lie in some interval of both, coalesced."""
    right = list(right)
    return coalesce(both for one in left for other in right if (both := one.intersect(other)))


def subtract(outer: Iterable[Interval], inner: Iterable[Interval]) -> list[Interval]:
    """The moments of `outer` that are not in `inner`, coalesced."""
    left = coalesce(outer)
    for taken in coalesce(inner):
        cut: list[Interval] = []
        for interval in left:
            if interval.start < taken.start:
                cut.append(Interval(interval.start, min(interval.end, taken.start)))
            if interval.end > taken.end:
                cut.append(Interval(max(interval.start, taken.end), interval.end))
        left = cut
    return coalesce(left)


def is_covered(outer: Iterable[Interval], inner: Iterable[Interval]) -> bool:
    """Whether every moment of `inner` lies in `outer`."""
    inner = coalesce(inner)
    return intersect_all(outer, inner) == inner


def merge_to_at_most(intervals: Iterable[Interval], most: int) -> list[Interval]:
    """At most `most` intervals that cover the given ones, made by filling the narrowest gaps.

    A bounded predicate is what keeps many scattered windows cheap: the engines read a little more, but
    never fail on, or crawl through, thousands of alternatives.
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
