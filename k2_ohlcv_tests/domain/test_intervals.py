"""Arithmetic of intervals, compared with sets of minutes."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_ohlcv.domain.intervals import (
    Interval,
    coalesce,
    day_start,
    from_micros,
    intersect_all,
    is_covered,
    merge_to_at_most,
    subtract,
    to_micros,
)

START = datetime(2024, 2, 28, 23, tzinfo=UTC)


def minutes(start: int, end: int) -> Interval:
    return Interval(START + timedelta(minutes=start), START + timedelta(minutes=end))


def moments(intervals: list[Interval]) -> set[int]:
    return {m for m in range(60) for i in intervals if START + timedelta(minutes=m) in i}


interval_lists = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 9)).map(lambda t: minutes(t[0], t[0] + t[1])), max_size=8
)


@given(interval_lists)
def test_coalesce_keeps_the_moments_in_disjoint_order(intervals: list[Interval]) -> None:
    merged = coalesce(intervals)
    assert moments(merged) == moments(intervals)
    assert all(a.end < b.start for a, b in pairwise(merged))


@given(interval_lists, interval_lists)
def test_intersection_and_cover_are_those_of_sets(left: list[Interval], right: list[Interval]) -> None:
    assert moments(intersect_all(left, right)) == moments(left) & moments(right)
    assert moments(subtract(left, right)) == moments(left) - moments(right)
    assert is_covered(left, right) == (moments(right) <= moments(left))


@given(interval_lists, st.integers(1, 4))
def test_merging_to_at_most_a_number_covers_all_intervals(intervals: list[Interval], most: int) -> None:
    bounded = merge_to_at_most(intervals, most)
    assert len(bounded) <= most
    assert is_covered(bounded, intervals)
    assert not intervals or bounded[0].start == min(i.start for i in intervals)


def test_merging_fills_the_narrowest_gap_first() -> None:
    assert merge_to_at_most([minutes(0, 1), minutes(2, 3), minutes(30, 31)], 2) == [
        minutes(0, 3),
        minutes(30, 31),
    ]


def test_an_interval_is_half_open_and_in_utc() -> None:
    assert START in minutes(0, 1)
    assert minutes(0, 1).end not in minutes(0, 1)
    assert minutes(0, 1).last == minutes(0, 1).end - timedelta(microseconds=1)
    with pytest.raises(ValueError, match="in UTC"):
        Interval(datetime(2024, 1, 1), datetime(2024, 1, 2))  # noqa: DTZ001 - naive on purpose
    with pytest.raises(ValueError, match="ends after it starts"):
        minutes(3, 3)


def test_days_include_each_day_that_the_interval_touches() -> None:
    assert list(minutes(0, 60).days()) == [date(2024, 2, 28)]
    assert list(minutes(59, 61).days()) == [date(2024, 2, 28), date(2024, 2, 29)]
    assert day_start(date(2024, 2, 29)) == minutes(60, 61).start


@given(st.integers(0, 2**52))
def test_micros_are_exact_both_ways(micros: int) -> None:
    assert to_micros(from_micros(micros)) == micros
