"""The times that a trade can have: from 2009 until shortly after now.

No market is older than Bitcoin. Ingestion refuses trades outside; what other writers put there is left out of
the candles, counted and named. The end moves with the clock, in whole days, so that all who ask on one day
get the same answer.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from k2_ohlcv.domain.window import DAY, Interval, intersect_all, midnight

#: No market is older.
OLDEST = datetime(2009, 1, 1, tzinfo=UTC)


def trading_times(now: datetime | None = None) -> Interval:
    """From 2009-01-01 until the end of tomorrow, UTC, as of `now` (default: this moment).

    Ingestion takes trades up to a day ahead of its clock: all of these lie inside.
    """
    today = midnight((now or datetime.now(UTC)).astimezone(UTC).date())
    return Interval(OLDEST, max(today, OLDEST) + 2 * DAY)


def possible(intervals: Iterable[Interval]) -> list[Interval]:
    """What of some intervals lies in the times that a trade can have now, coalesced."""
    return intersect_all(intervals, [trading_times()])
