"""Limit on the partitions that a scheduled retention run may drop.

Retention measures age from the newest trade of all markets. One stray trade of today would make a lake of
historical data old in one moment. Each run therefore stores the time of its newest trade and the wall time.
If the data clock then advanced much further than the wall clock, a run drops a few partitions or none.
Every function here is pure. Storing the clocks is in `lake.maintenance.retention_clocks`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import Grain

#: The data clock may advance this much further than the wall clock. A feed can catch up after a week.
CLOCK_SLACK = 7 * DAY
#: Number of partitions that every run may drop, whatever the clocks show.
MAX_PARTITIONS = {Grain.DAY: 7, Grain.MONTH: 1}


@dataclass(frozen=True)
class RetentionClocks:
    """The two clocks of a retention run.

    Attributes:
        data: the moment from which the run measured age: the time of the newest trade.
        wall: the time of the run.
    """

    data: datetime
    wall: datetime


def is_drop_limited(before: RetentionClocks | None, now: RetentionClocks) -> bool:
    """Whether a run may drop only `MAX_PARTITIONS`.

    A pause of the daemon advances both clocks. A changed setting advances neither.

    Args:
        before: the clocks of the last run; None at the first run.
        now: the clocks of this run.
    """
    return before is None or now.data - before.data > _elapsed_time(before, now) + CLOCK_SLACK


def is_drop_held_back(
    partitions: int, grain: Grain, before: RetentionClocks | None, now: RetentionClocks
) -> bool:
    """Whether a scheduled run must drop none of this number of partitions."""
    return partitions > MAX_PARTITIONS[grain] and is_drop_limited(before, now)


def next_clocks(before: RetentionClocks | None, now: RetentionClocks, *, knowingly: bool) -> RetentionClocks:
    """Return the clocks to store for the next run, after a run that was not held back.

    The stored data clock advances no faster than the limit allows, even if the run dropped little. Otherwise
    a jump of the data clock would count as normal in the next run.

    Args:
        before: the clocks of the last run; None at the first run.
        now: the clocks of this run.
        knowingly: whether a person applied retention. The stored clocks are then those of this run.
    """
    if knowingly or before is None:
        return now
    return RetentionClocks(min(now.data, before.data + _elapsed_time(before, now) + CLOCK_SLACK), now.wall)


def _elapsed_time(before: RetentionClocks, now: RetentionClocks) -> timedelta:
    return max(now.wall - before.wall, timedelta(0))  # the wall clock may have been set back
