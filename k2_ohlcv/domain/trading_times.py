"""The times that a trade can have: from 2009 until shortly after now.

No market is older than Bitcoin. Ingestion refuses trades outside; what other writers put there is left out of
the candles, counted and named. The end moves with the clock, in whole days, so that all who ask on one day
get the same answer.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from k2_ohlcv.domain.intervals import DAY, Interval, day_start, intersect_all

#: No market is older.
OLDEST_TRADE = datetime(2009, 1, 1, tzinfo=UTC)


def possible_trade_times(now: datetime | None = None) -> Interval:
    """From 2009-01-01 until the end of tomorrow, UTC, as of `now` (default: this moment).

    Ingestion takes trades up to a day ahead of its clock: all of these lie inside.
    """
    today = day_start((now or datetime.now(UTC)).astimezone(UTC).date())
    return Interval(OLDEST_TRADE, max(today, OLDEST_TRADE) + 2 * DAY)


def clip_to_trading_times(intervals: Iterable[Interval]) -> list[Interval]:
    """What of some intervals lies in the times that a trade can have now, coalesced."""
    return intersect_all(intervals, [possible_trade_times()])
