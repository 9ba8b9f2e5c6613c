"""Totals for checks: one scan serves all tables, and cached windows are never counted twice."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine import totals, window_cache
from k2_ohlcv.engine.trades_reader import MAX_INTERVALS
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv.operations.validate import validate
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE, day_interval
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades

Scans = list[Sequence[Interval]]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Scans:
    """The intervals of each scan of the trades."""
    intervals: Scans = []
    real = totals._scan_trades

    def scan(*arguments: Any, **options: Any) -> Any:
        intervals.append(arguments[-1])
        return real(*arguments, **options)

    monkeypatch.setattr(totals, "_scan_trades", scan)
    return intervals


def validate_all(each_engine: EngineLake, spans: Sequence[Interval]) -> None:
    for timeframe in TIMEFRAMES:
        findings = validate(
            each_engine.lake, each_engine.engine, timeframe, spans, cache=each_engine.run.totals
        )
        assert all(f.is_ok for f in findings if f.check != "freshness")


def test_trades_are_scanned_once_for_all_tables(sail: EngineLake, scans: Scans) -> None:
    """Days that are far apart are checked one after the other. They are scanned once too."""
    later = AT + 60 * DAY
    lakes.add_trades(sail.lake, [*week_of_trades(), make_trade(1000, later)])
    for timeframe in TIMEFRAMES:
        refresh(sail.lake, sail.engine, timeframe)
    spans = [Interval(day_interval(AT).start, day_interval(AT + 3 * DAY).end), day_interval(later)]
    validate_all(sail, spans)
    assert sorted(i.start.date() for scan in scans for i in scan) == [AT.date(), later.date()]


def test_the_cache_of_totals_is_bounded(
    sail: EngineLake, scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Totals that do not fit are scanned again. Those of longer windows are kept first."""
    lakes.add_trades(sail.lake, week_of_trades())
    monkeypatch.setattr(window_cache, "_MAX_CACHED_ROWS", 30)
    cache, trades = totals.TotalsCache(TIMEFRAMES), sail.lake.trades()
    for timeframe in TIMEFRAMES:
        totals.compute_totals(
            sail.engine,
            trades,
            table_history.current_snapshot_id(trades),
            timeframe,
            [day_interval(AT)],
            cache=cache,
        )
    assert len(scans) == 3, "24 windows of 1h and 1 of 1d are kept, those of 5m and 30m are not"


def test_more_intervals_than_a_scan_takes_are_counted_once(sail: EngineLake, scans: Scans) -> None:
    """A scan merges scattered windows with those between. These are scanned again when requested."""
    given_trades = [make_trade(i, AT + timedelta(minutes=i)) for i in range(4 * MAX_INTERVALS)]
    lakes.add_trades(sail.lake, given_trades)
    cache, trades = totals.TotalsCache([MINUTE]), sail.lake.trades()
    every_other = [MINUTE.window(trade.timestamp) for trade in given_trades[::2]]
    for intervals in (every_other, [Interval(AT, AT + DAY)]):
        computed = totals.compute_totals(
            sail.engine, trades, table_history.current_snapshot_id(trades), MINUTE, intervals, cache=cache
        )
        assert Counter(computed["trade_count"].to_list()) == {
            1: len(intervals) if len(intervals) > 1 else len(given_trades)
        }
    assert len(scans) == 2
