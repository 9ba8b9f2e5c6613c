"""Windows whose candle would break an invariant: each is refused alone, reported and read again."""

from datetime import datetime, timedelta

import pytest

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv.operations.reports import RefusedWindowsError
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE, assert_refreshed, day_interval, minute_candles
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades


def test_a_bad_trade_among_good_trades_is_found(three_days: EngineLake) -> None:
    """The window's volume is positive. The bounds of the file's quantities show the bad trade."""
    refused_trade = make_trade("bad", week_of_trades()[0].timestamp, 100, "-0.05")
    lakes.add_trades(three_days.lake, [refused_trade])
    with pytest.raises(RefusedWindowsError, match="positive_metrics"):
        three_days.refresh(MINUTE)
    three_days.assert_equal_to_trades(week_of_trades(), MINUTE)


def bad_trade(number: int, at: datetime, symbol: str = "BAD") -> Trade:
    """A trade of another writer with quantity zero."""
    return make_trade(number, at, 100, 0, market=("BINANCE", symbol))


def test_a_refused_window_blocks_no_other_window(three_days: EngineLake) -> None:
    """The refused window is unchanged and reported, until its trades are corrected."""
    good_trades = [make_trade(1000, AT + DAY), make_trade(1001, AT + 2 * DAY)]
    refused_trade = bad_trade(1, AT + timedelta(minutes=1))
    lakes.add_trades(three_days.lake, [*good_trades, refused_trade])
    with pytest.raises(
        RefusedWindowsError, match=r"1 windows .* BINANCE BAD 2024-02-28T12:01:00Z"
    ) as refused:
        three_days.refresh(MINUTE)
    assert refused.value.report.counts.changed == 2
    three_days.assert_equal_to_trades([*week_of_trades(), *good_trades], MINUTE)
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    findings = {f.check: f for f in three_days.validate(MINUTE, [day_interval(AT)])}
    assert not findings["positive_metrics"].is_ok
    assert "BINANCE BAD" in findings["positive_metrics"].note

    late_trade = make_trade(1002, AT + timedelta(minutes=30))
    lakes.add_trades(three_days.lake, [late_trade])
    with pytest.raises(RefusedWindowsError) as again:
        three_days.refresh(MINUTE)
    report = again.value.report
    assert {i.start for i in report.plan.intervals} == {refused_trade.timestamp, late_trade.timestamp}, (
        "no other window"
    )

    commits = len(minute_candles(three_days).snapshots())
    with pytest.raises(RefusedWindowsError):
        three_days.refresh(MINUTE)
    assert len(minute_candles(three_days).snapshots()) == commits, "nothing new to commit"

    three_days.lake.trades().delete("symbol == 'BAD'")
    assert_refreshed(three_days, [*week_of_trades(), *good_trades, late_trade])


def test_a_stored_candle_of_a_refused_window_stays(three_days: EngineLake) -> None:
    """The refresh fails, and the table is unchanged."""
    first = week_of_trades()[0]
    refused_trade = make_trade("bad", first.timestamp, 100, "-0.5")
    lakes.add_trades(three_days.lake, [refused_trade])
    with pytest.raises(RefusedWindowsError):
        three_days.refresh(MINUTE)
    three_days.assert_equal_to_trades(week_of_trades(), MINUTE)


@pytest.mark.parametrize("name", [FROZEN_BEFORE, EXPIRED_BEFORE])
def test_a_refused_window_before_a_bound_is_closed(three_days: EngineLake, name: str) -> None:
    """No trade can correct it any more, and the table would be stale for ever."""
    lakes.add_trades(three_days.lake, [bad_trade(1, AT + timedelta(minutes=1))])
    with pytest.raises(RefusedWindowsError):
        three_days.refresh(MINUTE)
    table = three_days.lake.trades() if name == FROZEN_BEFORE else minute_candles(three_days)
    table_history.set_properties(table, {name: day_interval(AT + DAY).start.isoformat()})
    three_days.refresh(MINUTE)
    assert preview_refresh(three_days.lake, MINUTE).is_current
    assert not TableLag.measure(three_days.lake, MINUTE).refused
    three_days.assert_equal_to_trades(week_of_trades(), MINUTE)
