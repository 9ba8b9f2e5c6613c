"""Checks stop at the lines of retention: what cannot be known any more is counted, never a failure."""

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
    WEEK_LINE,
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


def numbers(found: Finding) -> dict[str, float]:
    return dict(found.numbers)


def forget_watermark(each_engine: EngineLake, each: Timeframe) -> None:
    table_history.forget_watermark(each_engine.lake.candles(each))


@pytest.mark.parametrize("each", TIMEFRAMES, ids=lambda each: each.name)
def test_frozen_candles_are_not_held_to_trades_that_are_gone(sail: EngineLake, each: Timeframe) -> None:
    """They are counted; all ahead of the line are held to the trades as before."""
    daily_trades(sail)
    before = find_check(sail, "reconciles_with_trades", each).examined
    frozen = lakes.read_frame(sail.lake, each).filter(pl.col("window_start") < WEEK_LINE).height
    drop_trades(sail)
    assert list_failures(sail, each) == {}
    found = find_check(sail, "reconciles_with_trades", each)
    assert found.examined == before - frozen
    assert 0 < frozen < before
    assert numbers(found) == {"pending_windows": 0, "windows_behind": DAY // each.length}
    assert "behind the lines of retention" in found.note


def test_damage_ahead_of_the_line_is_still_found(sail: EngineLake) -> None:
    """And damage of a frozen row still fails the checks that look at rows alone."""
    daily_trades(sail)
    drop_trades(sail)
    damage(sail, first_rows(1, volume=pl.col("volume") * 2, vwap=pl.col("high_price") + 1))
    assert list_failures(sail) == {"vwap_bounds": 1}
    drop_candles(sail, MINUTE)
    damage(sail, first_rows(2, volume=pl.col("volume") * 2))
    assert list_failures(sail) == {"reconciles_with_trades": 2}


def test_after_a_run_the_line_holds_too(sail: EngineLake) -> None:
    """Retention may have moved it between the run and its checks."""
    daily_trades(sail)
    drop_trades(sail)
    current = sail.lake.trades().metadata.current_snapshot_id
    found = sail.validate(MINUTE, [SPAN], reconciled=ReconciledWindows(current, (SPAN,)))
    assert [f.check for f in found if f.check in BLOCKING and not f.is_ok] == []


def test_candles_that_retention_dropped_are_not_missing(sail: EngineLake) -> None:
    """Neither to the trades, which are all there, nor to the longer tables."""
    daily_trades(sail)
    drop_candles(sail, MINUTE)
    for each in TIMEFRAMES:
        assert list_failures(sail, each) == {}
    assert numbers(find_check(sail, "reconciles_with_trades"))["windows_behind"] == 1440
    assert numbers(find_check(sail, "reconciles_with_trades", HOUR))["windows_behind"] == 0


@pytest.mark.parametrize("dropped", [MINUTE, HOUR], ids=lambda each: each.name)
def test_timeframes_agree_stops_at_the_lines_of_both(sail: EngineLake, dropped: Timeframe) -> None:
    """Dropped from either, a day is not compared; the other days are."""
    daily_trades(sail)
    before = find_check(sail, "timeframes_agree", HOUR).examined
    day_rows = lakes.read_frame(sail.lake, HOUR).filter(pl.col("window_start") < WEEK_LINE).height
    drop_candles(sail, dropped)
    found = find_check(sail, "timeframes_agree", HOUR)
    assert (found.failures, found.examined) == (0, before - day_rows)
    assert numbers(found)["windows_behind"] == 24


def test_timeframes_agree_stops_at_the_line_of_frozen_trades(sail: EngineLake) -> None:
    """Where trades keep going, a line may pass through a long window that shorter ones have left behind."""
    daily_trades(sail)
    drop_trades(sail)
    assert numbers(find_check(sail, "timeframes_agree", HOUR))["windows_behind"] == 24


def test_a_window_through_which_the_line_passes_is_behind_it(sail: EngineLake) -> None:
    """An hour that can't be computed any more is not held to its minutes, of which some still change."""
    daily_trades(sail)
    table_history.freeze_trades(sail.lake.trades(), (AT + timedelta(minutes=10)))
    later = pl.col("window_start") == AT + timedelta(minutes=30)
    twice = pl.when(later).then(pl.col("volume") * 2).otherwise(pl.col("volume"))
    damage(sail, lambda rows: rows.with_columns(twice.cast(rows.schema["volume"]).alias("volume")))
    assert list_failures(sail) == {"reconciles_with_trades": 1}
    assert list_failures(sail, HOUR) == {}
    assert numbers(find_check(sail, "timeframes_agree", HOUR))["windows_behind"] == AT.hour + 1


def gaps(each_engine: EngineLake, span: Interval = SPAN) -> tuple[dict[str, float], list[dict[str, object]]]:
    (found,) = [f for f in each_engine.validate(MINUTE, [span]) if f.check == "gaps"]
    assert found.is_ok
    assert found.rows is None or sum(numbers(found).values()) >= found.rows.height
    return numbers(found), [] if found.rows is None else found.rows.to_dicts()


def test_a_day_that_was_dropped_is_expired(sail: EngineLake) -> None:
    """A span of all markets, as nothing stored tells which there were; the rest is as it was."""
    daily_trades(sail)
    drop_candles(sail, MINUTE)
    counts, rows = gaps(sail)
    assert (counts[EXPIRED], counts[NOT_COMPUTED]) == (1, 0)
    assert counts[NO_TRADES] > 0
    assert rows[0] == {
        "exchange": ALL_MARKETS,
        "symbol": ALL_MARKETS,
        "start": FROZEN_DAY.start,
        "end": WEEK_LINE,
        "why": EXPIRED,
    }
    assert gaps(sail, FROZEN_DAY) == ({NO_TRADES: 0, EXPIRED: 1, NOT_COMPUTED: 0}, rows[:1])


def test_an_expired_day_is_said_not_passed_over(sail: EngineLake) -> None:
    """Every check of it passes, with nothing examined, and the gap says why."""
    daily_trades(sail)
    drop_candles(sail, MINUTE)
    found = {f.check: f for f in sail.validate(MINUTE, [FROZEN_DAY])}
    assert all(f.is_ok for f in found.values())
    assert found["reconciles_with_trades"].examined == 0
    assert "1,440 windows" in found["reconciles_with_trades"].note
    assert found["gaps"].note == "spans without a candle: 1 expired"


def test_a_gap_of_frozen_history_is_one_without_trades(sail: EngineLake) -> None:
    """The candles are the record then: their table was complete when the trades went."""
    daily_trades(sail)
    before = gaps(sail)
    drop_trades(sail)
    assert gaps(sail) == before
    assert before[0][EXPIRED] == 0


def test_trades_that_came_too_late_are_not_to_be_computed(sail: EngineLake) -> None:
    """Nothing will ever compute them: their window is no pending one, and its gap has expired."""
    daily_trades(sail)
    drop_trades(sail)
    before, _ = gaps(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT + timedelta(minutes=3))])
    after, _ = gaps(sail)
    assert after == {**before, EXPIRED: 1, NO_TRADES: before[NO_TRADES] - 1}
    assert numbers(find_check(sail, "reconciles_with_trades"))["pending_windows"] == 0


@pytest.mark.parametrize("days", [-1, 7], ids=["before all", "after all"])
def test_what_is_pending_beyond_the_candles_is_not_computed_yet(sail: EngineLake, days: int) -> None:
    """Trades before the first or after the last candle, in the examined span."""
    daily_trades(sail)
    at = AT + days * DAY
    lakes.add_trades(sail.lake, [make_trade(1000, at)])
    counts, rows = gaps(sail, day_interval(at))
    assert counts == {NO_TRADES: 0, EXPIRED: 0, NOT_COMPUTED: 1}
    assert [(row["symbol"], row["start"]) for row in rows] == [(ALL_MARKETS, at)]
    sail.refresh(MINUTE)
    assert gaps(sail, day_interval(at)) == ({NO_TRADES: 0, EXPIRED: 0, NOT_COMPUTED: 0}, [])


def test_partitions_behind_the_line_are_not_still_to_be_made(sail: EngineLake) -> None:
    """Without a watermark a day without candles is pending, but not a day that was dropped."""
    daily_trades(sail)
    drop_candles(sail, MINUTE)
    forget_watermark(sail, MINUTE)
    counts, _ = gaps(sail)
    assert (counts[EXPIRED], counts[NOT_COMPUTED]) == (1, 0)
