"""The five timeframes: rows of data, and what a window and a partition of each are.

Nothing here knows how candles are computed or stored. A sixth timeframe is one more row.
"""

from collections.abc import Iterable
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

_FIRST = datetime.min.replace(tzinfo=UTC)


class Grain(Enum):
    """How long a partition of a table is."""

    DAY = "day"
    MONTH = "month"

    def floor(self, moment: datetime) -> datetime:
        """The start of the partition that holds a moment."""
        day = moment.astimezone(UTC).date()
        return day_start(day.replace(day=1) if self is Grain.MONTH else day)

    def partition(self, moment: datetime) -> Interval:
        """The partition that holds a moment."""
        start = self.floor(moment)
        # The 28th is in every month, and four days on is in the next one.
        next_one = (
            add_clamped(start, DAY) if self is Grain.DAY else add_clamped(start.replace(day=28), 4 * DAY)
        )
        return Interval(start, next_one if next_one == LAST_MOMENT else self.floor(next_one))

    def partitions(self, intervals: Iterable[Interval]) -> list[Interval]:
        """The partitions that the intervals touch, in order, each once."""
        touched = set()
        for interval in coalesce(intervals):
            moment = interval.start
            while moment < interval.end:
                partition = self.partition(moment)
                touched.add(partition)
                moment = partition.end
        return sorted(touched)

    def key(self, partition: Interval) -> str:
        """The partition's name in Dagster: the ISO date on which it begins."""
        return partition.start.date().isoformat()

    def ordinal(self, moment: datetime) -> int:
        """The value of Iceberg's day or month transform: days or months since 1970-01-01."""
        if self is Grain.DAY:
            return (moment - EPOCH) // DAY
        return (moment.year - EPOCH.year) * 12 + moment.month - 1

    def interval_of(self, ordinal: int) -> Interval:
        """The partition whose transform value this is; the first or last that there is, where none has it."""
        ordinal = min(max(ordinal, self.ordinal(_FIRST)), self.ordinal(LAST_MOMENT))
        if self is Grain.DAY:
            return self.partition(EPOCH + ordinal * DAY)
        return self.partition(datetime(1970 + ordinal // 12, ordinal % 12 + 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Timeframe:
    """One candle table: how long its windows are, how it is partitioned, refreshed and kept.

    Windows are half-open and aligned to the UTC epoch, so a window never crosses midnight.

    Attributes:
        name: the timeframe as people say it, such as `5m`.
        length: the length of a window; divides a day.
        grain: the length of a partition.
        warn_after: the table is stale when behind its trades for longer than this.
        fail_after: and badly so when behind for longer than this.
        default_retention: how long candles are kept.
    """

    name: str
    length: timedelta
    grain: Grain
    warn_after: timedelta
    fail_after: timedelta
    default_retention: timedelta

    @property
    def table(self) -> str:
        """The name of the table, without its namespace."""
        return f"gold_ohlcv_{self.name}"

    @property
    def micros(self) -> int:
        """The length of a window in microseconds."""
        return self.length // MICROSECOND

    def floor(self, moment: datetime) -> datetime:
        """The start of the window that holds a moment."""
        return moment - (moment - EPOCH) % self.length

    def window(self, moment: datetime) -> Interval:
        """The window that holds a moment."""
        start = self.floor(moment)
        return Interval(start, add_clamped(start, self.length))

    def align(self, intervals: Iterable[Interval]) -> list[Interval]:
        """The whole windows that the intervals touch, coalesced."""
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
    """The timeframe of that name.

    Raises:
        UsageError: there is none; the message names those that there are.
    """
    for candidate in TIMEFRAMES:
        if candidate.name == name:
            return candidate
    raise UsageError(f"no timeframe {name!r}: there are {', '.join(t.name for t in TIMEFRAMES)}")


def parse_day(text: str) -> date:
    """A UTC day from its ISO form, such as 2013-11-25.

    Raises:
        UsageError: the text is not such a date.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a date: write it as YYYY-MM-DD, such as 2013-11-25") from None
