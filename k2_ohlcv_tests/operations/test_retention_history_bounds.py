"""Candles before the history bounds never change, whatever happens to trades."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.lake.history_bounds import (
    FREEZING_BEFORE,
    FROZEN_BEFORE,
    HistoryBounds,
    announcement_update,
    read_bound,
)
from k2_ohlcv.lake.maintenance import partition_drops
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations import retention as retention_module
from k2_ohlcv.operations.history import move_frozen_before
from k2_ohlcv.operations.planning import plan_refresh
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv.operations.retention import retention
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import (
    WEEK_BOUND,
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
    """Their candles stay, the watermark changes, and no window is read or skipped."""
    trades = daily_trades(sail)
    drop_trades(sail)
    for report in refresh_all(sail):
        assert (report.plan.intervals, report.plan.skipped, report.plan.files_read) == ((), 0, 0)
        assert report.watermark_moved
    sail.assert_equal_to_trades(trades)


def test_late_trades_change_no_frozen_candle(sail: EngineLake) -> None:
    """Trades of a frozen window are counted as skipped. Trades of other windows get candles."""
    trades = daily_trades(sail)
    drop_trades(sail)
    late_trades = [make_trade(1000, AT + timedelta(minutes=7)), make_trade(1001, AT + DAY)]
    lakes.add_trades(sail.lake, late_trades)
    report = sail.refresh(MINUTE)
    assert (report.plan.skipped, report.counts.added + report.counts.changed) == (1, 1)
    refresh_all(sail)
    sail.assert_equal_to_trades([*trades, late_trades[1]])
    assert preview_refresh(sail.lake, MINUTE).is_current


def test_retention_stores_frozen_before_in_candle_tables(sail: EngineLake) -> None:
    """The trades table is replaced before any refresh, and frozen candles stay."""
    trades = daily_trades(sail)
    settings = lakes.lake_settings(sail.home, K2_RETENTION_TRADES="2d", K2_RETENTION_1M="off")
    retention(sail.lake, settings.retention, apply=True)
    bound = read_bound(sail.lake.trades(), FROZEN_BEFORE)
    assert bound is not None
    assert {read_bound(sail.lake.candles(timeframe), FROZEN_BEFORE) for timeframe in TIMEFRAMES} == {bound}
    sail.lake.catalog.drop_table(sail.lake.trades().name())
    lakes.add_trades(sail.lake, [t for t in trades if t.timestamp >= bound])
    refresh_all(sail)
    sail.assert_equal_to_trades(trades, MINUTE)


@pytest.mark.parametrize("change", ["a lost watermark", "a rebuild of everything"])
def test_reconciling_everything_keeps_frozen_candles(sail: EngineLake, change: str) -> None:
    """Frozen windows are skipped without a watermark and in a full rebuild."""
    trades = daily_trades(sail)
    drop_trades(sail)
    lakes.add_trades(sail.lake, [make_trade(1001, AT + DAY)])
    for timeframe in TIMEFRAMES:
        if change == "a lost watermark":
            table_history.forget_watermark(sail.lake.candles(timeframe))
            report = sail.refresh(timeframe)
            assert report.plan.reason
        else:
            report = sail.rebuild(timeframe)
        assert report.plan.skipped > 0
        assert report.watermark_moved
        assert report.counts.removed == 0
    sail.assert_equal_to_trades([*trades, make_trade(1001, AT + DAY)])


def test_expired_candles_are_never_computed_again(sail: EngineLake) -> None:
    """A late trade, a lost watermark and a full rebuild add no expired candle."""
    trades = daily_trades(sail)
    drop_candles(sail, MINUTE)
    late_trades = [make_trade(1000, AT), make_trade(1001, AT + DAY)]
    remaining = [c for c in aggregate([*trades, late_trades[1]], MINUTE) if c.window_start >= WEEK_BOUND]
    lakes.add_trades(sail.lake, late_trades)
    assert sail.refresh(MINUTE).plan.skipped == 1
    assert lakes.read_candles(sail.lake, MINUTE) == remaining
    table_history.forget_watermark(sail.lake.candles(MINUTE))
    assert sail.refresh(MINUTE).plan.skipped == 1440
    assert lakes.read_candles(sail.lake, MINUTE) == remaining
    assert sail.rebuild(MINUTE).plan.skipped == 1440
    assert lakes.read_candles(sail.lake, MINUTE) == remaining


def test_a_rebuild_of_a_frozen_day_names_the_setting(sail: EngineLake) -> None:
    """The error names the table, the day, the reason and the setting."""
    trades = daily_trades(sail)
    drop_trades(sail)
    with pytest.raises(UsageError, match=r"gold_ohlcv_1m .* 2024-02-28 are frozen: .*K2_RETENTION_TRADES"):
        sail.rebuild(MINUTE, [Interval(day_interval(AT).start, day_interval(AT + DAY).end)])
    drop_candles(sail, MINUTE)
    with pytest.raises(UsageError, match=r"2024-02-28 are past retention.*K2_RETENTION_1M"):
        sail.rebuild(MINUTE, [day_interval(AT)])
    sail.assert_equal_to_trades(trades, find_timeframe("5m"))


def test_a_partly_frozen_month_is_rebuilt_after_the_bound(sail: EngineLake) -> None:
    """Its frozen days stay unchanged, and the watermark covers the whole month."""
    trades = daily_trades(sail)
    drop_trades(sail)
    late_trade = make_trade(1001, AT + DAY)
    lakes.add_trades(sail.lake, [late_trade])
    report = sail.rebuild(DAILY, [DAILY.grain.partition(AT)])
    assert report.plan.intervals == (Interval(WEEK_BOUND, DAILY.grain.partition(AT).end),)
    assert report.watermark_moved
    sail.assert_equal_to_trades([*trades, late_trade], DAILY)


def test_a_bound_inside_a_window_freezes_the_window() -> None:
    """A window without some of its trades cannot be computed."""
    bound = AT + timedelta(seconds=1)
    bounds = HistoryBounds(MINUTE, bound, None)
    assert bounds.start == AT + timedelta(minutes=1)
    assert bounds.clip([Interval(AT, AT + timedelta(minutes=3))]) == [
        Interval(AT + timedelta(minutes=1), AT + timedelta(minutes=3))
    ]
    assert bounds.count_outside([Interval(AT, AT + timedelta(minutes=3))]) == 1


def test_without_bounds_no_window_is_skipped(sail: EngineLake) -> None:
    """A plan of tables without bounds skips nothing."""
    daily_trades(sail)
    refresh_plan = plan_refresh(sail.lake.candles(MINUTE), sail.lake.trades(), MINUTE)
    assert refresh_plan.skipped == 0
    assert Watermark.from_table(sail.lake.candles(MINUTE)) is not None


#: The step that copies the bound to candle tables, and the one that drops partitions.
_STEPS = {"copy": (retention_module, "remember_frozen_before"), "drop": (partition_drops, "commit_change")}


def _end_retention_early(sail: EngineLake, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Apply retention of trades, which ends with an error when the named step of trades is due."""

    def fail(*_: object) -> None:
        raise ConnectionError("the process has ended")

    settings = lakes.lake_settings(sail.home, K2_RETENTION_TRADES="2d", K2_RETENTION_1M="off")
    with monkeypatch.context() as patch:
        patch.setattr(*_STEPS[step], fail)
        with pytest.raises(ConnectionError):
            retention(sail.lake, settings.retention, apply=True)


def _replace_trades(sail: EngineLake, trades: Sequence[Trade]) -> None:
    sail.lake.catalog.drop_table(sail.lake.trades().name())
    lakes.add_trades(sail.lake, trades)


def test_an_interrupted_retention_freezes_candles_of_a_replaced_table(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends after the drop of trades and before the copies of the bound."""
    trades = daily_trades(sail)
    _end_retention_early(sail, monkeypatch, "copy")
    bound = read_bound(sail.lake.trades(), FROZEN_BEFORE)
    assert bound is not None
    assert read_bound(sail.lake.candles(MINUTE), FROZEN_BEFORE) is None
    _replace_trades(sail, [t for t in trades if t.timestamp >= bound])
    refresh_all(sail)
    sail.assert_equal_to_trades(trades)
    assert {read_bound(sail.lake.candles(timeframe), FROZEN_BEFORE) for timeframe in TIMEFRAMES} == {bound}
    move_frozen_before(sail.lake, bound - DAY, apply=True)
    refresh_all(sail)
    sail.assert_equal_to_trades([t for t in trades if t.timestamp >= bound])


def test_an_announced_drop_that_failed_freezes_nothing(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late trade before the announced bound still gets its candle, and then retention drops both days."""
    trades = daily_trades(sail)
    _end_retention_early(sail, monkeypatch, "drop")
    assert read_bound(sail.lake.candles(MINUTE), FREEZING_BEFORE) is not None
    late_trade = make_trade(1000, AT + timedelta(minutes=7))
    lakes.add_trades(sail.lake, [late_trade])
    refresh_all(sail)
    sail.assert_equal_to_trades([*trades, late_trade])
    assert read_bound(sail.lake.candles(MINUTE), FROZEN_BEFORE) is None


def test_a_later_announcement_keeps_the_bound_of_a_replaced_table(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention of the new trades table copies the older bound before it announces its own."""
    daily_trades(sail)
    _end_retention_early(sail, monkeypatch, "copy")
    candles, trades = sail.lake.candles(MINUTE), sail.lake.trades()
    bound = read_bound(trades, FROZEN_BEFORE)
    assert bound is not None
    assert announcement_update(candles, trades, bound) == {}, "the drop is announced already"
    _replace_trades(sail, [make_trade(1000, AT)])
    update = announcement_update(candles, sail.lake.trades(), bound + DAY)
    assert (update[FROZEN_BEFORE], update[FREEZING_BEFORE]) == (bound.isoformat(), (bound + DAY).isoformat())
