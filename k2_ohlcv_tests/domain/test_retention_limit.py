"""How much a scheduled retention run may drop, at the edges of the rule."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_ohlcv.domain.intervals import DAY, MICROSECOND
from k2_ohlcv.domain.retention_limit import (
    CLOCK_SLACK,
    MAX_PARTITIONS,
    RetentionClocks,
    is_drop_held_back,
    is_drop_limited,
    next_clocks,
)
from k2_ohlcv.domain.timeframe import Grain

BEFORE = RetentionClocks(datetime(2013, 12, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
MANY = max(MAX_PARTITIONS.values()) + 1


def later(data: timedelta, wall: timedelta) -> RetentionClocks:
    return RetentionClocks(BEFORE.data + data, BEFORE.wall + wall)


@pytest.mark.parametrize(
    ("data", "wall", "limited"),
    [
        (DAY, DAY, False),
        (DAY + CLOCK_SLACK, DAY, False),
        (DAY + CLOCK_SLACK + MICROSECOND, DAY, True),
        (300 * DAY, 300 * DAY, False),
        (timedelta(0), 300 * DAY, False),
        (-300 * DAY, DAY, False),
        (CLOCK_SLACK, -300 * DAY, False),
        (4000 * DAY, DAY, True),
    ],
    ids=["daily", "slack", "beyond", "was off", "feed died", "rolled back", "clock set back", "stray trade"],
)
def test_the_data_may_not_outrun_the_wall_clock(data: timedelta, wall: timedelta, limited: bool) -> None:
    assert is_drop_limited(BEFORE, later(data, wall)) is limited


@pytest.mark.parametrize("grain", Grain)
def test_a_little_always_goes(grain: Grain) -> None:
    allowed = MAX_PARTITIONS[grain]
    for before in (None, BEFORE):
        stray = later(4000 * DAY, DAY)
        assert not is_drop_held_back(allowed, grain, before, stray)
        assert is_drop_held_back(allowed + 1, grain, before, stray)
    assert not is_drop_held_back(10_000, grain, BEFORE, later(DAY, DAY))
    assert (MAX_PARTITIONS[Grain.DAY], MAX_PARTITIONS[Grain.MONTH]) == (7, 1)


def test_a_jump_that_dropped_little_is_not_taken_for_granted() -> None:
    """The night after a stray trade the clock is where it was: what then became old is held still."""
    stray = later(4000 * DAY, DAY)
    kept = next_clocks(BEFORE, stray, knowingly=False)
    assert kept == RetentionClocks(BEFORE.data + DAY + CLOCK_SLACK, stray.wall)
    assert is_drop_held_back(MANY, Grain.DAY, kept, RetentionClocks(stray.data + DAY, stray.wall + DAY))
    assert next_clocks(BEFORE, stray, knowingly=True) == stray
    assert next_clocks(None, stray, knowingly=False) == stray


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 9)), max_size=20))
def test_no_chain_of_runs_takes_the_clock_further_than_each_may(moves: list[tuple[int, int]]) -> None:
    kept, now = BEFORE, BEFORE
    for data, wall in moves:
        now = RetentionClocks(now.data + data * DAY, now.wall + wall * DAY)
        following = next_clocks(kept, now, knowingly=False)
        assert not is_drop_limited(kept, following)
        assert following.data <= now.data
        kept = following
