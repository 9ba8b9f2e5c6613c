"""How much a scheduled retention run may drop: a steady run drops a day, and a surprising one nothing.

Ages are measured from the newest trade of all. One stray trade of today, in any market, would make a whole
lake of history old at once. So a run remembers two clocks, and the next one compares how far each has moved.
Every function here is pure; the clocks are kept in `lake.maintenance.retention_clocks`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import Grain

#: The data's clock may move by so much more than the wall clock: a feed that was down for a week catches up.
CLOCK_SLACK = 7 * DAY
#: So many partitions a run may drop whatever the clocks did.
MAX_PARTITIONS = {Grain.DAY: 7, Grain.MONTH: 1}


@dataclass(frozen=True)
class RetentionClocks:
    """The two clocks at a retention run.

    Attributes:
        data: the moment that ages were measured from: that of the newest trade.
        wall: the time at which the run was made.
    """

    data: datetime
    wall: datetime


def is_drop_limited(before: RetentionClocks | None, now: RetentionClocks) -> bool:
    """Whether a run may drop only `MAX_PARTITIONS`.

    A daemon that was off, or a changed setting, moves no clock apart from the other.

    Args:
        before: the clocks of the last run; None at the first one.
        now: the clocks of this run.
    """
    return before is None or now.data - before.data > _elapsed_time(before, now) + CLOCK_SLACK


def is_drop_held_back(
    partitions: int, grain: Grain, before: RetentionClocks | None, now: RetentionClocks
) -> bool:
    """Whether a scheduled run that would drop so many partitions drops none of them."""
    return partitions > MAX_PARTITIONS[grain] and is_drop_limited(before, now)


def next_clocks(before: RetentionClocks | None, now: RetentionClocks, *, knowingly: bool) -> RetentionClocks:
    """The clocks for the next run to compare with, after a run that was not held.

    A jump of the data's clock that happened to drop little is not taken for granted: the clock that is
    remembered moves no faster than the limit allows, unless somebody applied retention knowingly.
    """
    if knowingly or before is None:
        return now
    return RetentionClocks(min(now.data, before.data + _elapsed_time(before, now) + CLOCK_SLACK), now.wall)


def _elapsed_time(before: RetentionClocks, now: RetentionClocks) -> timedelta:
    return max(now.wall - before.wall, timedelta(0))  # a clock that was set back took no time away
