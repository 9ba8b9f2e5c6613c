"""Partitions: where each table's begin, that they include today and this month, how they map to trades.

Here is only what Dagster needs to know. What a partition is, is `domain.timeframe.Grain`.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime

import dagster as dg

from k2_ohlcv.domain.intervals import Interval, day_start
from k2_ohlcv.domain.retention import cutoff
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.settings import DEFAULT_START_DATE, Settings

#: One more than Dagster's default, which ends at the last whole period: today and this month have trades too.
_CURRENT_OFFSET = 1


def first_day(timeframe: Timeframe | None, settings: Settings, now: datetime | None = None) -> date:
    """The day on which a table's partitions begin.

    Args:
        timeframe: the candle table's, or None for trades.
        settings: with no `start_date`, a table begins where its retention ends, or at the default date where
            it is kept for ever or from before that. Trades begin with what is kept longest, they or candles:
            a partition of candles has all its days of trades.
        now: an aware UTC moment that retention is counted from; the present one if None.
    """
    start = settings.start_date
    if start is not None:
        return timeframe.grain.floor(day_start(start)).date() if timeframe else start
    moment = now or datetime.now(UTC)
    candles = [
        (t.grain, settings.retention.candles[t.name]) for t in ([timeframe] if timeframe else TIMEFRAMES)
    ]
    # Trades are kept for ever unless told otherwise, and need not be listed from before all candles for that.
    trades = (
        [(Grain.DAY, settings.retention.trades)] if timeframe is None and settings.retention.trades else []
    )
    return min(_first_kept_day(grain, cutoff(moment, kept, grain)) for grain, kept in [*candles, *trades])


def _first_kept_day(grain: Grain, line: datetime | None) -> date:
    earliest = grain.floor(day_start(DEFAULT_START_DATE))
    return max(line or earliest, earliest).date()


def partitions_definition(
    grain: Grain, first: date
) -> dg.DailyPartitionsDefinition | dg.MonthlyPartitionsDefinition:
    """The partitions of a grain from a day on, up to and including the current one, in UTC."""
    if grain is Grain.DAY:
        return dg.DailyPartitionsDefinition(first.isoformat(), end_offset=_CURRENT_OFFSET)
    return dg.MonthlyPartitionsDefinition(first.replace(day=1).isoformat(), end_offset=_CURRENT_OFFSET)


def partition_mapping(timeframe: Timeframe) -> dg.TimeWindowPartitionMapping:
    """From a candle table's partitions to the days of trades that they are made of.

    The current month has days that are not there yet, and the first one may have days before the start.
    """
    return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=timeframe.grain is Grain.MONTH)


def window_interval(window: dg.TimeWindow) -> Interval:
    """Dagster's time window as ours."""
    return Interval(window.start.astimezone(UTC), window.end.astimezone(UTC))


def selected_partitions(grain: Grain, window: dg.TimeWindow) -> Sequence[Interval]:
    """The partitions of a run over a single partition or a range."""
    return grain.partitions([window_interval(window)])
