"""What lies ahead of the lines of retention, and what is refused behind them."""

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


def test_without_lines_all_is_ahead() -> None:
    lines = HistoryBounds(HOUR, None, None)
    assert lines.start is None
    assert lines.clip([days(1), days(0)]) == [days(0, 2)]
    assert lines.outside([days(0)]) == []
    assert lines.count_outside([days(0)]) == 0
    lines.reject_outside([days(-5000)])


@pytest.mark.parametrize(("frozen", "expired"), [(NOON, None), (None, NOON), (NOON, DAY_1), (DAY_1, NOON)])
def test_the_later_line_counts(frozen: datetime | None, expired: datetime | None) -> None:
    lines = HistoryBounds(HOUR, frozen, expired)
    assert lines.start == NOON
    assert lines.clip([days(0)]) == [Interval(NOON, DAY_1 + DAY)]
    assert lines.outside([days(0)]) == [Interval(DAY_1, NOON)]
    assert lines.count_outside([days(0)]) == 12


def test_a_line_inside_a_window_leaves_that_window_behind() -> None:
    """A part of its trades is gone, so that it cannot be computed again."""
    lines = HistoryBounds(HOUR, NOON + timedelta(microseconds=1), None)
    assert lines.start == NOON + LENGTH
    assert lines.count_outside([Interval(NOON, NOON + timedelta(minutes=5))]) == 1


def test_partitions_behind_a_line_as_a_whole_are_refused_by_name() -> None:
    """Each is named once, with what cannot be undone first; one that a line cuts is rebuilt ahead of it."""
    lines = HistoryBounds(HOUR, DAY_1 + 2 * DAY, DAY_1 + DAY, "SOME_SETTING")
    lines.reject_outside([days(2), days(3)])
    HistoryBounds(HOUR, NOON, NOON).reject_outside([days(0)])
    with pytest.raises(UsageError) as refused:
        lines.reject_outside([days(0), days(1), days(2)])
    dropped, frozen = str(refused.value).split("; ")
    assert "partitions 2024-03-01 are past retention, which ended before 2024-03-02" in dropped
    assert "(K2_RETENTION_1H)" in dropped
    assert "partitions 2024-03-02 are frozen: their trades before 2024-03-03 have been expired" in frozen
    assert frozen.endswith("(SOME_SETTING)")
    assert HOUR.table in dropped


@pytest.mark.parametrize(("count", "ending"), [(10, "2024-03-10 are"), (11, "2024-03-10 and 1 more are")])
def test_of_many_refused_partitions_ten_are_named(count: int, ending: str) -> None:
    lines = HistoryBounds(HOUR, DAY_1 + 100 * DAY, None)
    with pytest.raises(UsageError, match=ending):
        lines.reject_outside([days(i) for i in range(count)])


def test_lines_move_forward_only_and_are_read_as_utc(lake: Lake) -> None:
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


def test_a_line_with_a_zone_of_its_own_keeps_it(lake: Lake) -> None:
    table = lake.writable_trades()
    table_history.set_properties(table, {FROZEN_BEFORE: "2024-03-01T14:00:00+02:00"})
    assert read_bound(table, FROZEN_BEFORE) == NOON


def test_a_line_that_is_no_moment_is_an_error_that_names_it(lake: Lake) -> None:
    table = lake.writable_trades()
    table_history.set_properties(table, {FROZEN_BEFORE: "soon"})
    with pytest.raises(TableSpecError, match=r"k2\.frozen-before of .*gold_crypto_trades is 'soon'"):
        read_bound(table, FROZEN_BEFORE)


@pytest.mark.parametrize(("trades", "candles"), [(NOON, None), (NOON, DAY_1), (DAY_1, NOON), (None, NOON)])
def test_the_frozen_line_is_the_later_of_both_tables(
    lake: Lake, trades: datetime | None, candles: datetime | None
) -> None:
    ours, hours = lake.writable_trades(), lake.writable_candles(HOUR)
    for table, line in ((ours, trades), (hours, candles)):
        if line:
            table_history.freeze_trades(table, line)
    table_history.set_properties(hours, {EXPIRED_BEFORE: DAY_1.isoformat()})
    assert read_frozen_before(hours, ours, NOON + DAY) == NOON
    assert HistoryBounds.from_tables(hours, ours, HOUR) == HistoryBounds(
        HOUR, NOON, DAY_1, "K2_RETENTION_TRADES"
    )
