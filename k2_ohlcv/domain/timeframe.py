"""The five timeframes as rows of data, with their windows and partitions.

Computing and storing candles do not belong here. A sixth timeframe is one more row.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import (
    DAY,
    EPOCH,
    LAST_MOMENT,
    MICROSECOND,
    Interval,
    add_clamped,
    coalesce,
    day_start,
)

#: An interval with too many rows is cut into pieces of at least this length.
_LEAST_PIECE = timedelta(hours=1)
_FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)


class Grain(Enum):
    """The length of a table's partitions."""

    DAY = "day"
    MONTH = "month"

    def floor(self, moment: datetime) -> datetime:
        """Return the start of the partition that contains a moment."""
        day = moment.astimezone(UTC).date()
        return day_start(day.replace(day=1) if self is Grain.MONTH else day)

    def partition(self, moment: datetime) -> Interval:
        """Return the partition that contains a moment."""
        start = self.floor(moment)
        # Every month has a 28th, and four days after the 28th is the next month.
        later = add_clamped(start, DAY) if self is Grain.DAY else add_clamped(start.replace(day=28), 4 * DAY)
        return Interval(start, later if later == LAST_MOMENT else self.floor(later))

    def partitions(self, intervals: Iterable[Interval]) -> list[Interval]:
        """Return the partitions that overlap the intervals, in order, without duplicates."""
        touched = set()
        for interval in coalesce(intervals):
            moment = interval.start
            while moment < interval.end:
                partition = self.partition(moment)
                touched.add(partition)
                moment = partition.end
        return sorted(touched)

    def key(self, partition: Interval) -> str:
        """Return the partition's key in Dagster: the ISO date on which the partition begins."""
        return partition.start.date().isoformat()

    def ordinal(self, moment: datetime) -> int:
        """Return the value of Iceberg's day or month transform: days or months since 1970-01-01."""
        if self is Grain.DAY:
            return (moment - EPOCH) // DAY
        return (moment.year - EPOCH.year) * 12 + moment.month - 1

    def interval_of(self, ordinal: int) -> Interval:
        """Return the partition of a transform value. Values out of range give the first or last partition."""
        ordinal = min(max(ordinal, self.ordinal(_FIRST_MOMENT)), self.ordinal(LAST_MOMENT))
        if self is Grain.DAY:
            return self.partition(EPOCH + ordinal * DAY)
        return self.partition(datetime(1970 + ordinal // 12, ordinal % 12 + 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Timeframe:
    """One candle table: window length, partitioning, freshness limits and retention.

    Windows are half-open and aligned to the UTC epoch. A window therefore never crosses midnight.

    Attributes:
        name: the short name, such as `5m`.
        length: the length of a window; divides a day.
        grain: the length of a partition.
        warn_after: a larger lag is a freshness warning.
        fail_after: a larger lag is a freshness failure.
        default_retention: how long candles are kept by default.
    """

    name: str
    length: timedelta
    grain: Grain
    warn_after: timedelta
    fail_after: timedelta
    default_retention: timedelta

    @property
    def table(self) -> str:
        """The name of the table, without the namespace."""
        return f"gold_ohlcv_{self.name}"

    @property
    def micros(self) -> int:
        """The length of a window in microseconds."""
        return self.length // MICROSECOND

    def floor(self, moment: datetime) -> datetime:
        """Return the start of the window that contains a moment."""
        return moment - (moment - EPOCH) % self.length

    def window(self, moment: datetime) -> Interval:
        """Return the window that contains a moment."""
        start = self.floor(moment)
        return Interval(start, add_clamped(start, self.length))

    def cut(self, interval: Interval) -> Iterator[Interval]:
        """Yield the pieces of an interval: whole windows, at most an hour or one window long."""
        length = max(self.length, _LEAST_PIECE)
        start = interval.start
        while start < interval.end:
            end = min(interval.end, add_clamped(start - (start - EPOCH) % length, length))
            yield Interval(start, end)
            start = end

    def align(self, intervals: Iterable[Interval]) -> list[Interval]:
        """Return the whole windows that overlap the intervals, coalesced."""
        return coalesce(
            Interval(self.floor(i.start), add_clamped(self.floor(i.end - MICROSECOND), self.length))
            for i in intervals
        )


def _minutes(count: int) -> timedelta:
    return timedelta(minutes=count)


def _hours(count: int) -> timedelta:
    return timedelta(hours=count)


TIMEFRAMES: tuple[Timeframe, ...] = (
    Timeframe("1m", _minutes(1), Grain.DAY, _minutes(5), _minutes(10), 90 * DAY),
    Timeframe("5m", _minutes(5), Grain.DAY, _minutes(15), _minutes(30), 180 * DAY),
    Timeframe("30m", _minutes(30), Grain.DAY, _minutes(30), _minutes(60), 365 * DAY),
    Timeframe("1h", _hours(1), Grain.DAY, _hours(1), _hours(2), 3 * 365 * DAY),
    Timeframe("1d", DAY, Grain.MONTH, _hours(24), _hours(26), 5 * 365 * DAY),
)


def find_timeframe(name: str) -> Timeframe:
    """Return the timeframe with this name.

    Raises:
        UsageError: no timeframe has this name; the message lists the names.
    """
    for candidate in TIMEFRAMES:
        if candidate.name == name:
            return candidate
    raise UsageError(f"no timeframe {name!r}: there are {', '.join(t.name for t in TIMEFRAMES)}")


def parse_day(text: str) -> date:
    """Parse a UTC day in ISO form, such as 2013-11-25.

    Raises:
        UsageError: the text is not an ISO date.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a date: write it as YYYY-MM-DD, such as 2013-11-25") from None
