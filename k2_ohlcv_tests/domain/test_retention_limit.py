"""The most that a scheduled retention run may drop, at the edges of the rule."""

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
def test_a_drop_is_limited_when_the_data_outruns_the_wall_clock(
    data: timedelta, wall: timedelta, limited: bool
) -> None:
    assert is_drop_limited(BEFORE, later(data, wall)) is limited


@pytest.mark.parametrize("grain", Grain)
def test_a_few_partitions_may_always_be_dropped(grain: Grain) -> None:
    allowed = MAX_PARTITIONS[grain]
    for before in (None, BEFORE):
        stray = later(4000 * DAY, DAY)
        assert not is_drop_held_back(allowed, grain, before, stray)
        assert is_drop_held_back(allowed + 1, grain, before, stray)
    assert not is_drop_held_back(10_000, grain, BEFORE, later(DAY, DAY))
    assert (MAX_PARTITIONS[Grain.DAY], MAX_PARTITIONS[Grain.MONTH]) == (7, 1)


def test_a_time_jump_that_dropped_little_does_not_advance_the_clock() -> None:
    """The night after a stray trade, the stored clock has not jumped. The drop is still held back."""
    stray = later(4000 * DAY, DAY)
    stored = next_clocks(BEFORE, stray, knowingly=False)
    assert stored == RetentionClocks(BEFORE.data + DAY + CLOCK_SLACK, stray.wall)
    assert is_drop_held_back(MANY, Grain.DAY, stored, RetentionClocks(stray.data + DAY, stray.wall + DAY))
    assert next_clocks(BEFORE, stray, knowingly=True) == stray
    assert next_clocks(None, stray, knowingly=False) == stray


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 9)), max_size=20))
def test_a_chain_of_runs_never_advances_the_clock_beyond_the_limit(steps: list[tuple[int, int]]) -> None:
    stored, now = BEFORE, BEFORE
    for data, wall in steps:
        now = RetentionClocks(now.data + data * DAY, now.wall + wall * DAY)
        following = next_clocks(stored, now, knowingly=False)
        assert not is_drop_limited(stored, following)
        assert following.data <= now.data
        stored = following
