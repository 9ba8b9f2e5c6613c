"""The cache of rolled-up rows: whatever scans come in whatever order, it gives each trade once."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.intervals import Interval, coalesce
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe
from k2_ohlcv.engine.totals import TotalsCache
from k2_ohlcv.engine.window_cache import RollupCache
from k2_ohlcv.frames.candles import is_in_intervals

START, MINUTES = datetime(2024, 5, 17, tzinfo=UTC), 60
SNAPSHOT = 1


def span(timeframe: Timeframe, first: int, count: int) -> Interval:
    """Some windows of a timeframe, counted from the start, within the hour."""
    start = START + first * timeframe.length
    return Interval(start, min(start + count * timeframe.length, START + timedelta(minutes=MINUTES)))


def totals_of(timeframe: Timeframe, spans: list[Interval]) -> pl.DataFrame:
    """The totals of one trade a minute in some windows."""
    minutes = [START + timedelta(minutes=i) for i in range(MINUTES)]
    rows = pl.DataFrame(
        {"exchange": "E", "symbol": "S", "window_start": minutes, "trade_count": 1, "volume": 1},
    ).with_columns(high_price=pl.lit(1), low_price=pl.lit(1))
    chosen = rows.filter(is_in_intervals("window_start", spans))
    return TotalsCache(TIMEFRAMES)._roll_up(chosen, timeframe).sort("window_start")


def scan(cache: RollupCache, timeframe: Timeframe, spans: list[Interval]) -> None:
    """Take the totals from the cache, which must be right, or compute them and add them."""
    computed, cached = totals_of(timeframe, spans), cache.pop(SNAPSHOT, timeframe, spans)
    if cached is None:
        cache.put_longer(SNAPSHOT, timeframe, spans, computed)
    else:
        assert cached.sort("window_start").equals(computed)


@st.composite
def scans(draw: st.DrawFn) -> list[tuple[Timeframe, list[Interval]]]:
    """Scans of the shorter timeframes, each of one or two spans."""
    drawn = []
    for timeframe in draw(st.lists(st.sampled_from(TIMEFRAMES[:3]), min_size=2, max_size=6)):
        last = timedelta(minutes=MINUTES) // timeframe.length - 1
        lengths = st.sampled_from([1, 5, 60])
        spans = st.lists(
            st.builds(span, st.just(timeframe), st.integers(0, last), lengths), min_size=1, max_size=2
        )
        drawn.append((timeframe, coalesce(draw(spans))))
    return drawn


@settings(max_examples=100)
@given(scans())
def test_scans_in_any_order_give_each_trade_once(drawn: list[tuple[Timeframe, list[Interval]]]) -> None:
    """Scans may overlap: after a conflict, with other chunks, or of other windows."""
    cache = TotalsCache(TIMEFRAMES)
    for timeframe, spans in drawn:
        scan(cache, timeframe, spans)


@pytest.mark.parametrize("first", [0, 1], ids=["the start of the window", "the middle of the window"])
def test_a_part_of_a_cached_window_is_not_added_to_it(first: int) -> None:
    """A window of half an hour is cached whole. A scan of 5m then reads five minutes of it again."""
    minute, five, half = (find_timeframe(name) for name in ("1m", "5m", "30m"))
    cache = TotalsCache([minute, five, half])
    scan(cache, minute, [span(half, 0, 1)])
    scan(cache, five, [span(five, first, 1), span(five, 9, 1)])
    scan(cache, half, [span(half, 0, 1)])
    scan(cache, half, [span(half, 1, 1)])
