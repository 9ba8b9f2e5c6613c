"""Dagster's partitions of the tables: the first one, the current one, and their mapping to trades.

The bounds of a partition are in `domain.timeframe.Grain`.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime

import dagster as dg

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import Interval, day_start
from k2_ohlcv.domain.retention import cutoff
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe, parse_day
from k2_ohlcv.settings import DEFAULT_START_DATE, Settings

#: Dagster's default ends with the last whole period. Today and the current month have trades too.
_CURRENT_OFFSET = 1


def first_day(timeframe: Timeframe | None, settings: Settings, now: datetime | None = None) -> date:
    """The day on which a table's partitions begin.

    Args:
        timeframe: the timeframe of the candle table, or None for trades.
        settings: without `start_date` a table begins where its retention ends. A table without retention
            begins at the default date, and no table begins earlier. Trades begin with the table that is kept
            longest, so that each candle partition has all its days of trades.
        now: the UTC time from which retention is counted; None is now.
    """
    start = settings.start_date
    if start is not None:
        return timeframe.grain.floor(day_start(start)).date() if timeframe else start
    moment = now or datetime.now(UTC)
    candles = [
        (t.grain, settings.retention.candles[t.name]) for t in ([timeframe] if timeframe else TIMEFRAMES)
    ]
    # Trades without retention need no partitions before those of all candles.
    trades = (
        [(Grain.DAY, settings.retention.trades)] if timeframe is None and settings.retention.trades else []
    )
    return min(_first_kept_day(grain, cutoff(moment, kept, grain)) for grain, kept in [*candles, *trades])


def _first_kept_day(grain: Grain, kept_from: datetime | None) -> date:
    earliest = grain.floor(day_start(DEFAULT_START_DATE))
    return max(kept_from or earliest, earliest).date()


def partitions_definition(
    grain: Grain, first: date
) -> dg.DailyPartitionsDefinition | dg.MonthlyPartitionsDefinition:
    """The partitions of a grain in UTC, from the first day up to and including the current partition."""
    if grain is Grain.DAY:
        return dg.DailyPartitionsDefinition(first.isoformat(), end_offset=_CURRENT_OFFSET)
    return dg.MonthlyPartitionsDefinition(first.replace(day=1).isoformat(), end_offset=_CURRENT_OFFSET)


def partition_mapping(timeframe: Timeframe) -> dg.TimeWindowPartitionMapping:
    """The mapping from a candle table's partitions to the days of their trades.

    The current month has days that do not exist yet. The first month may have days before the first one.
    """
    return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=timeframe.grain is Grain.MONTH)


def window_interval(window: dg.TimeWindow) -> Interval:
    """The interval of a Dagster time window."""
    return Interval(window.start.astimezone(UTC), window.end.astimezone(UTC))


def selected_partitions(grain: Grain, window: dg.TimeWindow) -> Sequence[Interval]:
    """The partitions of a run, for a single partition as for a range."""
    return grain.partitions([window_interval(window)])


def parse_days(texts: Sequence[str]) -> list[Interval]:
    """Parse the days in the run config of a candle table.

    Raises:
        UsageError: a text is not of the form FIRST/END.
    """
    intervals = []
    for text in texts:
        first, _, end = text.partition("/")
        start, stop = day_start(parse_day(first)), day_start(parse_day(end))
        if start >= stop:
            raise UsageError(f"{text!r} ends before it begins. Write FIRST/END; the end is not included")
        intervals.append(Interval(start, stop))
    return intervals
