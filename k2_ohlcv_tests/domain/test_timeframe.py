"""Windows and partitions of timeframes, at every kind of edge."""

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

any_moment = st.datetimes(datetime(2009, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
any_timeframe = st.sampled_from(TIMEFRAMES)


@given(any_timeframe, any_moment)
def test_a_moment_is_in_its_window_and_the_window_in_its_partition(
    timeframe: Timeframe, moment: datetime
) -> None:
    window = timeframe.window(moment)
    assert moment in window
    assert to_micros(window.start) % timeframe.micros == 0
    assert is_covered([timeframe.grain.partition(moment)], [window])


@given(any_timeframe, any_moment, st.integers(1, 10**11))
def test_aligning_adds_only_what_completes_the_windows(
    timeframe: Timeframe, start: datetime, micros: int
) -> None:
    interval = Interval(start, start + micros * MICROSECOND)
    (aligned,) = timeframe.align([interval])
    assert is_covered([aligned], [interval])
    assert aligned == timeframe.align([aligned])[0]
    assert aligned.start > interval.start - timeframe.length
    assert aligned.end < interval.end + timeframe.length
    assert aligned == Interval(timeframe.floor(interval.start), timeframe.window(interval.last).end)


@given(st.sampled_from([(Grain.DAY, DayTransform()), (Grain.MONTH, MonthTransform())]), any_moment)
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


def test_partitions_of_intervals_are_unique_and_sorted() -> None:
    jan = datetime(2024, 1, 30, 12, tzinfo=UTC)
    parts = Grain.DAY.partitions([Interval(jan, jan + 2 * DAY), Interval(jan, jan + MICROSECOND)])
    assert [Grain.DAY.key(p) for p in parts] == ["2024-01-30", "2024-01-31", "2024-02-01"]
    assert [Grain.MONTH.key(p) for p in Grain.MONTH.partitions(parts)] == ["2024-01-01", "2024-02-01"]


@pytest.mark.parametrize("timeframe", TIMEFRAMES, ids=lambda t: t.name)
def test_a_timeframe_has_consistent_limits(timeframe: Timeframe) -> None:
    """Windows divide a day and each longer window. Retention is longer than the freshness limits."""
    assert DAY % timeframe.length == timedelta(0)
    assert timeframe.warn_after < timeframe.fail_after < timeframe.default_retention
    assert find_timeframe(timeframe.name) is timeframe
    longer = [t for t in TIMEFRAMES if t.length > timeframe.length]
    assert all(t.length % timeframe.length == timedelta(0) for t in longer)


def test_an_unknown_timeframe_or_date_is_an_error_with_the_right_form() -> None:
    with pytest.raises(UsageError, match="no timeframe '2m': there are 1m, 5m, 30m, 1h, 1d"):
        find_timeframe("2m")
    with pytest.raises(UsageError, match="YYYY-MM-DD"):
        parse_day("25.11.2013")
