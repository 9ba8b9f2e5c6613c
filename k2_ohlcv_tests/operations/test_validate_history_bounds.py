"""Checks at the history bounds: windows before them are counted, and never fail."""

from datetime import timedelta

import polars as pl
import pytest

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.frames.checks import Finding
from k2_ohlcv.frames.gaps import ALL_MARKETS, EXPIRED, NO_TRADES, NOT_COMPUTED
from k2_ohlcv.operations.reports import ReconciledWindows
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import (
    HOUR,
    MINUTE,
    WEEK_BOUND,
    daily_trades,
    damage,
    day_interval,
    drop_candles,
    drop_trades,
    first_rows,
)
from k2_ohlcv_tests.support.check_findings import BLOCKING, SPAN, find_check, list_failures
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade

FROZEN_DAY = day_interval(AT)


def numbers(finding: Finding) -> dict[str, float]:
    return dict(finding.numbers)


@pytest.mark.parametrize("timeframe", TIMEFRAMES, ids=lambda timeframe: timeframe.name)
def test_frozen_candles_are_not_compared_with_trades(sail: EngineLake, timeframe: Timeframe) -> None:
    """They are counted. Every candle after the bound is still compared."""
    daily_trades(sail)
    before = find_check(sail, "reconciles_with_trades", timeframe).examined
    frozen = lakes.read_frame(sail.lake, timeframe).filter(pl.col("window_start") < WEEK_BOUND).height
    drop_trades(sail)
    assert list_failures(sail, timeframe) == {}
    finding = find_check(sail, "reconciles_with_trades", timeframe)
    assert finding.examined == before - frozen
    assert 0 < frozen < before
    assert numbers(finding) == {"pending_windows": 0, "windows_behind": DAY // timeframe.length}
    assert "before frozen_before or expired_before" in finding.note


def test_damage_after_the_bound_is_found(sail: EngineLake) -> None:
    """Damage of a frozen row fails only the checks of single rows."""
    daily_trades(sail)
    drop_trades(sail)
    damage(sail, first_rows(1, volume=pl.col("volume") * 2, vwap=pl.col("high_price") + 1))
    assert list_failures(sail) == {"vwap_bounds": 1}
    drop_candles(sail, MINUTE)
    damage(sail, first_rows(2, volume=pl.col("volume") * 2))
    assert list_failures(sail) == {"reconciles_with_trades": 2}


def test_after_a_run_the_bound_counts_too(sail: EngineLake) -> None:
    """Retention may change the bound between a run and its checks."""
    daily_trades(sail)
    drop_trades(sail)
    current = sail.lake.trades().metadata.current_snapshot_id
    findings = sail.validate(MINUTE, [SPAN], reconciled=ReconciledWindows(current, (SPAN,)))
    assert [f.check for f in findings if f.check in BLOCKING and not f.is_ok] == []


def test_expired_candles_are_not_missing(sail: EngineLake) -> None:
    """They are missing neither from the trades nor from the longer tables."""
    daily_trades(sail)
    drop_candles(sail, MINUTE)
    for timeframe in TIMEFRAMES:
        assert list_failures(sail, timeframe) == {}
    assert numbers(find_check(sail, "reconciles_with_trades"))["windows_behind"] == 1440
    assert numbers(find_check(sail, "reconciles_with_trades", HOUR))["windows_behind"] == 0


@pytest.mark.parametrize("dropped", [MINUTE, HOUR], ids=lambda timeframe: timeframe.name)
def test_timeframes_agree_stops_at_both_bounds(sail: EngineLake, dropped: Timeframe) -> None:
    """A day that expired in either table is not compared. Other days are."""
    daily_trades(sail)
    before = find_check(sail, "timeframes_agree", HOUR).examined
    day_rows = lakes.read_frame(sail.lake, HOUR).filter(pl.col("window_start") < WEEK_BOUND).height
    drop_candles(sail, dropped)
    finding = find_check(sail, "timeframes_agree", HOUR)
    assert (finding.failures, finding.examined) == (0, before - day_rows)
    assert numbers(finding)["windows_behind"] == 24


def test_timeframes_agree_stops_at_frozen_before(sail: EngineLake) -> None:
    """The bound may be inside a long window of which shorter windows are frozen already."""
    daily_trades(sail)
    drop_trades(sail)
    assert numbers(find_check(sail, "timeframes_agree", HOUR))["windows_behind"] == 24


def test_a_window_that_contains_the_bound_is_frozen(sail: EngineLake) -> None:
    """The hour cannot be computed, so it is not compared with its minutes, of which some still change."""
    daily_trades(sail)
    table_history.freeze_trades(sail.lake.trades(), AT + timedelta(minutes=10))
    later = pl.col("window_start") == AT + timedelta(minutes=30)
    twice = pl.when(later).then(pl.col("volume") * 2).otherwise(pl.col("volume"))
    damage(sail, lambda rows: rows.with_columns(twice.cast(rows.schema["volume"]).alias("volume")))
    assert list_failures(sail) == {"reconciles_with_trades": 1}
    assert list_failures(sail, HOUR) == {}
    assert numbers(find_check(sail, "timeframes_agree", HOUR))["windows_behind"] == AT.hour + 1


def find_gaps(
    each_engine: EngineLake, span: Interval = SPAN
) -> tuple[dict[str, float], list[dict[str, object]]]:
    (finding,) = [f for f in each_engine.validate(MINUTE, [span]) if f.check == "gaps"]
    assert finding.is_ok
    assert finding.rows is None or sum(numbers(finding).values()) >= finding.rows.height
    return numbers(finding), [] if finding.rows is None else finding.rows.to_dicts()


def test_a_day_that_was_dropped_is_expired(sail: EngineLake) -> None:
    """The gap is of all markets, since no stored row names them. Other gaps are unchanged."""
    daily_trades(sail)
    drop_candles(sail, MINUTE)
    counts, rows = find_gaps(sail)
    assert (counts[EXPIRED], counts[NOT_COMPUTED]) == (1, 0)
    assert counts[NO_TRADES] > 0
    assert rows[0] == {
        "exchange": ALL_MARKETS,
        "symbol": ALL_MARKETS,
        "start": FROZEN_DAY.start,
        "end": WEEK_BOUND,
        "why": EXPIRED,
    }
    assert find_gaps(sail, FROZEN_DAY) == ({NO_TRADES: 0, EXPIRED: 1, NOT_COMPUTED: 0}, rows[:1])


def test_an_expired_day_is_reported(sail: EngineLake) -> None:
    """Every check of the day passes with nothing examined, and the gap has the reason."""
    daily_trades(sail)
    drop_candles(sail, MINUTE)
    findings = {f.check: f for f in sail.validate(MINUTE, [FROZEN_DAY])}
    assert all(f.is_ok for f in findings.values())
    assert findings["reconciles_with_trades"].examined == 0
    assert "1,440 windows" in findings["reconciles_with_trades"].note
    assert findings["gaps"].note == "spans without a candle: 1 expired"


def test_a_gap_in_frozen_history_has_no_trades(sail: EngineLake) -> None:
    """The table was complete when the trades expired, so the candles are the record."""
    daily_trades(sail)
    before = find_gaps(sail)
    drop_trades(sail)
    assert find_gaps(sail) == before
    assert before[0][EXPIRED] == 0


def test_late_trades_of_frozen_windows_are_not_pending(sail: EngineLake) -> None:
    """No run will compute them. The gap of their window is expired."""
    daily_trades(sail)
    drop_trades(sail)
    before, _ = find_gaps(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT + timedelta(minutes=3))])
    after, _ = find_gaps(sail)
    assert after == {**before, EXPIRED: 1, NO_TRADES: before[NO_TRADES] - 1}
    assert numbers(find_check(sail, "reconciles_with_trades"))["pending_windows"] == 0


@pytest.mark.parametrize("days", [-1, 7], ids=["before all", "after all"])
def test_pending_windows_outside_the_candles_are_gaps(sail: EngineLake, days: int) -> None:
    """Trades before the first or after the last candle make a gap that is not computed yet."""
    daily_trades(sail)
    at = AT + days * DAY
    lakes.add_trades(sail.lake, [make_trade(1000, at)])
    counts, rows = find_gaps(sail, day_interval(at))
    assert counts == {NO_TRADES: 0, EXPIRED: 0, NOT_COMPUTED: 1}
    assert [(row["symbol"], row["start"]) for row in rows] == [(ALL_MARKETS, at)]
    sail.refresh(MINUTE)
    assert find_gaps(sail, day_interval(at)) == ({NO_TRADES: 0, EXPIRED: 0, NOT_COMPUTED: 0}, [])


def test_expired_partitions_are_not_pending(sail: EngineLake) -> None:
    """Without a watermark a day without candles is pending, but not an expired day."""
    daily_trades(sail)
    drop_candles(sail, MINUTE)
    table_history.forget_watermark(sail.lake.candles(MINUTE))
    counts, _ = find_gaps(sail)
    assert (counts[EXPIRED], counts[NOT_COMPUTED]) == (1, 0)
