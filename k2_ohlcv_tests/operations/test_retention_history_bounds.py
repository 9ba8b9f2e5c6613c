"""Behind the lines of retention history stands still, whatever happens to trades."""

from datetime import timedelta

import pytest

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE, HistoryBounds, read_bound
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.plan import plan_refresh
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv.operations.retention import retention
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import (
    WEEK_LINE,
    daily_trades,
    day_interval,
    drop_candles,
    drop_trades,
    refresh_all,
)
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade

MINUTE, DAILY = find_timeframe("1m"), find_timeframe("1d")


def test_expired_trades_do_not_count_as_deleted(sail: EngineLake) -> None:
    """The candles that came from them stay, the watermark moves, nothing is read and nothing skipped."""
    some = daily_trades(sail)
    drop_trades(sail)
    for report in refresh_all(sail):
        assert (report.plan.intervals, report.plan.skipped, report.plan.files_read) == ((), 0, 0)
        assert report.watermark_moved
    sail.assert_equal_to_trades(some)


def test_late_trades_change_no_frozen_candle(sail: EngineLake) -> None:
    """Trades for a frozen window are counted as skipped windows; those of other windows come in."""
    some = daily_trades(sail)
    drop_trades(sail)
    more = [make_trade(1000, AT + timedelta(minutes=7)), make_trade(1001, AT + DAY)]
    lakes.add_trades(sail.lake, more)
    report = sail.refresh(MINUTE)
    assert (report.plan.skipped, report.counts.added + report.counts.changed) == (1, 1)
    refresh_all(sail)
    sail.assert_equal_to_trades([*some, more[1]])
    assert preview_refresh(sail.lake, MINUTE).is_current


def test_retention_itself_has_the_candles_remember_the_line(sail: EngineLake) -> None:
    """Trades are created anew right after, before any refresh: the frozen candles stay."""
    some = daily_trades(sail)
    settings = lakes.lake_settings(sail.home, K2_RETENTION_TRADES="2d", K2_RETENTION_1M="off")
    retention(sail.lake, settings.retention, apply=True)
    line = read_bound(sail.lake.trades(), FROZEN_BEFORE)
    assert line is not None
    assert {read_bound(sail.lake.candles(each), FROZEN_BEFORE) for each in TIMEFRAMES} == {line}
    sail.lake.catalog.drop_table(sail.lake.trades().name())
    lakes.add_trades(sail.lake, [t for t in some if t.timestamp >= line])
    refresh_all(sail)
    sail.assert_equal_to_trades(some, MINUTE)


@pytest.mark.parametrize("how", ["a lost watermark", "a rebuild of everything"])
def test_reconciling_everything_keeps_frozen_candles(sail: EngineLake, how: str) -> None:
    some = daily_trades(sail)
    drop_trades(sail)
    lakes.add_trades(sail.lake, [make_trade(1001, AT + DAY)])
    for each in TIMEFRAMES:
        if how == "a lost watermark":
            table_history.forget_watermark(sail.lake.candles(each))
            report = sail.refresh(each)
            assert report.plan.reason
        else:
            report = sail.rebuild(each)
        assert report.plan.skipped > 0
        assert report.watermark_moved
        assert report.counts.removed == 0
    sail.assert_equal_to_trades([*some, make_trade(1001, AT + DAY)])


def test_dropped_candles_never_come_back(sail: EngineLake) -> None:
    """Neither by a late trade, nor by reconciling everything, nor by a rebuild of everything."""
    some = daily_trades(sail)
    drop_candles(sail, MINUTE)
    late = [make_trade(1000, AT), make_trade(1001, AT + DAY)]
    kept = [c for c in aggregate([*some, late[1]], MINUTE) if c.window_start >= WEEK_LINE]
    lakes.add_trades(sail.lake, late)
    assert sail.refresh(MINUTE).plan.skipped == 1
    assert lakes.read_candles(sail.lake, MINUTE) == kept
    table_history.forget_watermark(sail.lake.candles(MINUTE))
    assert sail.refresh(MINUTE).plan.skipped == 1440
    assert lakes.read_candles(sail.lake, MINUTE) == kept
    assert sail.rebuild(MINUTE).plan.skipped == 1440
    assert lakes.read_candles(sail.lake, MINUTE) == kept


def test_a_rebuild_behind_a_line_is_refused_by_name(sail: EngineLake) -> None:
    some = daily_trades(sail)
    drop_trades(sail)
    with pytest.raises(UsageError, match=r"gold_ohlcv_1m .* 2024-02-28 are frozen: .*K2_RETENTION_TRADES"):
        sail.rebuild(MINUTE, [Interval(day_interval(AT).start, day_interval(AT + DAY).end)])
    drop_candles(sail, MINUTE)
    with pytest.raises(UsageError, match=r"2024-02-28 are past retention.*K2_RETENTION_1M"):
        sail.rebuild(MINUTE, [day_interval(AT)])
    sail.assert_equal_to_trades(some, find_timeframe("5m"))


def test_a_month_that_is_frozen_in_part_is_rebuilt_ahead_of_the_line(sail: EngineLake) -> None:
    """And its other days stay as they are, with the watermark moving over all of it."""
    some = daily_trades(sail)
    drop_trades(sail)
    late = make_trade(1001, AT + DAY)
    lakes.add_trades(sail.lake, [late])
    report = sail.rebuild(DAILY, [DAILY.grain.partition(AT)])
    assert report.plan.intervals == (Interval(WEEK_LINE, DAILY.grain.partition(AT).end),)
    assert report.watermark_moved
    sail.assert_equal_to_trades([*some, late], DAILY)


def test_a_line_within_a_window_holds_the_whole_window() -> None:
    """A window of which some trades are gone can't be computed any more."""
    line = AT + timedelta(seconds=1)
    lines = HistoryBounds(MINUTE, line, None)
    assert lines.start == AT + timedelta(minutes=1)
    assert lines.clip([Interval(AT, AT + timedelta(minutes=3))]) == [
        Interval(AT + timedelta(minutes=1), AT + timedelta(minutes=3))
    ]
    assert lines.count_outside([Interval(AT, AT + timedelta(minutes=3))]) == 1


def test_the_lines_do_not_hide_what_cannot_be_known(sail: EngineLake) -> None:
    """A plan made of tables without lines skips nothing."""
    daily_trades(sail)
    found = plan_refresh(sail.lake.candles(MINUTE), sail.lake.trades(), MINUTE)
    assert found.skipped == 0
    assert Watermark.from_table(sail.lake.candles(MINUTE)) is not None
