"""History bounds: which windows are computed, which are skipped, and which rebuilds are refused."""

from datetime import UTC, datetime, timedelta

import pytest

from k2_ohlcv.domain.errors import TableSpecError, UsageError
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.history_bounds import (
    EXPIRED_BEFORE,
    FROZEN_BEFORE,
    HistoryBounds,
    bound_property_update,
    frozen_before_update,
    read_bound,
    read_frozen_before,
)
from k2_ohlcv_tests.support import table_history

HOUR = find_timeframe("1h")
DAY_1 = datetime(2024, 3, 1, tzinfo=UTC)
NOON = DAY_1 + timedelta(hours=12)
LENGTH = timedelta(hours=1)


def days(first: int, count: int = 1) -> Interval:
    return Interval(DAY_1 + first * DAY, DAY_1 + (first + count) * DAY)


def test_without_bounds_no_window_is_outside() -> None:
    """No interval is clipped or refused."""
    bounds = HistoryBounds(HOUR, None, None)
    assert bounds.start is None
    assert bounds.clip([days(1), days(0)]) == [days(0, 2)]
    assert bounds.outside([days(0)]) == []
    assert bounds.count_outside([days(0)]) == 0
    bounds.reject_outside([days(-5000)])


@pytest.mark.parametrize(("frozen", "expired"), [(NOON, None), (None, NOON), (NOON, DAY_1), (DAY_1, NOON)])
def test_the_later_bound_counts(frozen: datetime | None, expired: datetime | None) -> None:
    """Windows before the later of both bounds are outside."""
    bounds = HistoryBounds(HOUR, frozen, expired)
    assert bounds.start == NOON
    assert bounds.clip([days(0)]) == [Interval(NOON, DAY_1 + DAY)]
    assert bounds.outside([days(0)]) == [Interval(DAY_1, NOON)]
    assert bounds.count_outside([days(0)]) == 12


def test_a_window_that_contains_a_bound_is_outside() -> None:
    """Some of its trades are deleted, so it cannot be computed."""
    bounds = HistoryBounds(HOUR, NOON + timedelta(microseconds=1), None)
    assert bounds.start == NOON + LENGTH
    assert bounds.count_outside([Interval(NOON, NOON + timedelta(minutes=5))]) == 1


def test_partitions_before_a_bound_are_refused_by_name() -> None:
    """Each is named once, expired partitions first. A partition that contains a bound is accepted."""
    bounds = HistoryBounds(HOUR, DAY_1 + 2 * DAY, DAY_1 + DAY, "SOME_SETTING")
    bounds.reject_outside([days(2), days(3)])
    HistoryBounds(HOUR, NOON, NOON).reject_outside([days(0)])
    with pytest.raises(UsageError) as error:
        bounds.reject_outside([days(0), days(1), days(2)])
    dropped, frozen = str(error.value).split("; ")
    assert "partitions 2024-03-01 are past retention, which ended before 2024-03-02" in dropped
    assert "(K2_RETENTION_1H)" in dropped
    assert "partitions 2024-03-02 are frozen: their trades before 2024-03-03 have been expired" in frozen
    assert frozen.endswith("(SOME_SETTING)")
    assert HOUR.table in dropped


@pytest.mark.parametrize(("count", "ending"), [(10, "2024-03-10 are"), (11, "2024-03-10 and 1 more are")])
def test_of_many_refused_partitions_ten_are_named(count: int, ending: str) -> None:
    """The rest is a count."""
    bounds = HistoryBounds(HOUR, DAY_1 + 100 * DAY, None)
    with pytest.raises(UsageError, match=ending):
        bounds.reject_outside([days(i) for i in range(count)])


def test_bounds_only_increase_and_are_read_as_utc(lake: Lake) -> None:
    """An equal or earlier bound changes no property."""
    table = lake.writable_trades()
    assert read_bound(table, FROZEN_BEFORE) is None
    assert bound_property_update(table, FROZEN_BEFORE, NOON) == {FROZEN_BEFORE: NOON.isoformat()}
    table_history.set_properties(table, {FROZEN_BEFORE: "2024-03-01T12:00:00"})
    assert read_bound(table, FROZEN_BEFORE) == NOON
    assert bound_property_update(table, FROZEN_BEFORE, NOON) == {}
    assert bound_property_update(table, FROZEN_BEFORE, NOON - LENGTH) == {}
    assert bound_property_update(table, FROZEN_BEFORE, NOON + LENGTH) == {
        FROZEN_BEFORE: (NOON + LENGTH).isoformat()
    }
    assert frozen_before_update(lake.writable_candles(HOUR), table) == {FROZEN_BEFORE: NOON.isoformat()}


def test_a_bound_with_a_zone_is_converted(lake: Lake) -> None:
    """14:00+02:00 is noon in UTC."""
    table = lake.writable_trades()
    table_history.set_properties(table, {FROZEN_BEFORE: "2024-03-01T14:00:00+02:00"})
    assert read_bound(table, FROZEN_BEFORE) == NOON


def test_an_unreadable_bound_is_named(lake: Lake) -> None:
    """The error names the property, the table and the value."""
    table = lake.writable_trades()
    table_history.set_properties(table, {FROZEN_BEFORE: "soon"})
    with pytest.raises(TableSpecError, match=r"k2\.frozen-before of .*gold_crypto_trades is 'soon'"):
        read_bound(table, FROZEN_BEFORE)


@pytest.mark.parametrize(("trades", "candles"), [(NOON, None), (NOON, DAY_1), (DAY_1, NOON), (None, NOON)])
def test_the_later_frozen_before_counts(
    lake: Lake, trades: datetime | None, candles: datetime | None
) -> None:
    """Trades and candles may both have the property."""
    trades_table, candles_table = lake.writable_trades(), lake.writable_candles(HOUR)
    for table, bound in ((trades_table, trades), (candles_table, candles)):
        if bound:
            table_history.freeze_trades(table, bound)
    table_history.set_properties(candles_table, {EXPIRED_BEFORE: DAY_1.isoformat()})
    assert read_frozen_before(candles_table, trades_table, NOON + DAY) == NOON
    assert HistoryBounds.from_tables(candles_table, trades_table, HOUR) == HistoryBounds(
        HOUR, NOON, DAY_1, "K2_RETENTION_TRADES"
    )
