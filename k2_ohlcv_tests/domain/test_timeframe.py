"""Timeframes: windows and partitions, at every kind of edge."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.transforms import DayTransform, MonthTransform
from pyiceberg.types import TimestamptzType

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY, MICROSECOND, Interval, is_covered, to_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe, find_timeframe, parse_day

anywhen = st.datetimes(datetime(2009, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
any_timeframe = st.sampled_from(TIMEFRAMES)


@given(any_timeframe, anywhen)
def test_a_moment_is_in_its_window_and_the_window_in_its_partition(some: Timeframe, moment: datetime) -> None:
    window = some.window(moment)
    assert moment in window
    assert to_micros(window.start) % some.micros == 0
    assert is_covered([some.grain.partition(moment)], [window])


@given(any_timeframe, anywhen, st.integers(1, 10**11))
def test_aligning_covers_with_whole_windows_and_no_more(
    some: Timeframe, start: datetime, micros: int
) -> None:
    interval = Interval(start, start + micros * MICROSECOND)
    (aligned,) = some.align([interval])
    assert is_covered([aligned], [interval])
    assert aligned == some.align([aligned])[0]
    assert aligned.start > interval.start - some.length
    assert aligned.end < interval.end + some.length
    assert aligned == Interval(some.floor(interval.start), some.window(interval.last).end)


@given(st.sampled_from([(Grain.DAY, DayTransform()), (Grain.MONTH, MonthTransform())]), anywhen)
def test_ordinals_are_those_of_icebergs_transforms(
    pair: tuple[Grain, DayTransform[Any] | MonthTransform[Any]], moment: datetime
) -> None:
    grain, transform = pair
    assert grain.ordinal(moment) == transform.transform(TimestamptzType())(to_micros(moment))
    assert grain.interval_of(grain.ordinal(moment)) == grain.partition(moment)


@pytest.mark.parametrize(
    ("grain", "moment", "start", "end"),
    [
        (Grain.DAY, datetime(2024, 2, 29, 23, 59, 59, 999999, UTC), date(2024, 2, 29), date(2024, 3, 1)),
        (Grain.MONTH, datetime(2024, 2, 29, tzinfo=UTC), date(2024, 2, 1), date(2024, 3, 1)),
        (Grain.MONTH, datetime(2023, 12, 31, 23, 59, tzinfo=UTC), date(2023, 12, 1), date(2024, 1, 1)),
        (Grain.MONTH, datetime(2024, 1, 31, tzinfo=UTC), date(2024, 1, 1), date(2024, 2, 1)),
    ],
)
def test_partitions_at_the_edges(grain: Grain, moment: datetime, start: date, end: date) -> None:
    partition = grain.partition(moment)
    assert (partition.start.date(), partition.end.date()) == (start, end)
    assert grain.key(partition) == start.isoformat()


def test_partitions_of_intervals_come_once_in_order() -> None:
    jan = datetime(2024, 1, 30, 12, tzinfo=UTC)
    parts = Grain.DAY.partitions([Interval(jan, jan + 2 * DAY), Interval(jan, jan + MICROSECOND)])
    assert [Grain.DAY.key(p) for p in parts] == ["2024-01-30", "2024-01-31", "2024-02-01"]
    assert [Grain.MONTH.key(p) for p in Grain.MONTH.partitions(parts)] == ["2024-01-01", "2024-02-01"]


@pytest.mark.parametrize("some", TIMEFRAMES, ids=lambda t: t.name)
def test_a_timeframe_is_sound(some: Timeframe) -> None:
    """Windows divide a day, each timeframe divides the next, and nothing expires before it must be fresh."""
    assert DAY % some.length == timedelta(0)
    assert some.warn_after < some.fail_after < some.default_retention
    assert find_timeframe(some.name) is some
    longer = [t for t in TIMEFRAMES if t.length > some.length]
    assert all(t.length % some.length == timedelta(0) for t in longer)


def test_what_is_wrong_is_named_with_what_is_right() -> None:
    with pytest.raises(UsageError, match="no timeframe '2m': there are 1m, 5m, 30m, 1h, 1d"):
        find_timeframe("2m")
    with pytest.raises(UsageError, match="YYYY-MM-DD"):
        parse_day("25.11.2013")
