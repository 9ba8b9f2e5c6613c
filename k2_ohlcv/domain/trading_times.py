"""The range of possible trade times: from 2009 until the end of tomorrow.

No market is older than Bitcoin. Ingestion rejects trades outside of the range. External tables may have such
trades: candles leave these trades out, and a check counts them. The end of the range advances by whole days.
All callers on one day therefore get the same range.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from k2_ohlcv.domain.intervals import DAY, Interval, day_start, intersect_all

#: The first possible trade time: Bitcoin began in January 2009.
OLDEST_TRADE = datetime(2009, 1, 1, tzinfo=UTC)


def possible_trade_times(now: datetime | None = None) -> Interval:
    """Return the range from 2009-01-01 until the end of tomorrow, UTC.

    Ingestion accepts trades up to a day ahead of its clock. The range includes all of these trades.

    Args:
        now: the current time; by default this moment.
    """
    today = day_start((now or datetime.now(UTC)).astimezone(UTC).date())
    return Interval(OLDEST_TRADE, max(today, OLDEST_TRADE) + 2 * DAY)


def clip_to_trading_times(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the parts of the intervals that are possible trade times now, coalesced."""
    return intersect_all(intervals, [possible_trade_times()])
