"""Trades of external tables of every shape are rolled up as the reference aggregation does."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.operations.reconcile import rebuild
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.external_shapes import (
    ID_FORMS,
    ROW_TIME,
    SHAPES,
    Shape,
    create_external_lake,
    trades_as_stored,
)
from k2_ohlcv_tests.support.strategies import MARKETS, moments, trades
from k2_ohlcv_tests.support.time_forms import TIME_FORMS
from k2_ohlcv_tests.support.trades import make_trade
from k2_ohlcv_tests.support.windows import compute_candles, list_trade_days

MINUTE, FIVE_MINUTES, DAILY = (find_timeframe(name) for name in ("1m", "5m", "1d"))


def check(
    each_engine: EngineLake,
    given_trades: Sequence[Trade],
    shape: Shape,
    timeframes: Sequence[Timeframe] = (MINUTE, DAILY),
) -> None:
    """Compare the candles of a table of that shape, computed with and without a cache."""
    lakes.drop_tables(each_engine.lake)
    table = create_external_lake(each_engine.lake, given_trades, shape).trades()
    stored, engine = trades_as_stored(given_trades, shape), each_engine.engine
    days, cache = list_trade_days(stored), WindowCache(TIMEFRAMES)
    for timeframe in timeframes:
        computed = compute_candles(engine, table, timeframe, days, cache)
        assert computed == aggregate(stored, timeframe), (shape, timeframe.name)
    uncached = compute_candles(engine, table, FIVE_MINUTES, days)
    assert uncached == aggregate(stored, FIVE_MINUTES), shape


@st.composite
def plain_trades(draw: st.DrawFn, most: int = 30) -> list[Trade]:
    """Trades of few decimals, often equal in time, in price, or in both."""
    few = st.integers(1, 10**6).map(lambda n: Decimal(n).scaleb(-draw(st.integers(0, 8))))
    numbers = st.sampled_from(draw(st.lists(few, min_size=1, max_size=4)))
    at = st.sampled_from(draw(st.lists(moments(), min_size=1, max_size=6)))
    return [
        make_trade(
            market=draw(st.sampled_from(MARKETS)),
            number=number,
            at=draw(at),
            price=draw(numbers),
            quantity=draw(numbers),
        )
        for number in range(1, draw(st.integers(2, most)))
    ]


@settings(max_examples=40)
@given(plain_trades(), st.sampled_from(SHAPES))
def test_sail_reads_tables_of_every_shape(sail: EngineLake, given_trades: list[Trade], shape: Shape) -> None:
    check(sail, given_trades, shape, TIMEFRAMES)


@settings(max_examples=10)
@given(trades(), st.sampled_from([s for s in SHAPES if s[2] != "double"]))
def test_sail_reads_huge_and_tiny_decimals(sail: EngineLake, given_trades: list[Trade], shape: Shape) -> None:
    check(sail, given_trades, shape)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@settings(max_examples=1)
@given(st.lists(plain_trades(), min_size=8, max_size=8))
def test_spark_reads_tables_of_every_shape(spark: EngineLake, lots: list[list[Trade]]) -> None:
    """Spark is slow, so it reads four shapes. Together they have every form of each column."""
    given_trades = [replace(t, exchange=f"{t.exchange}-{i}") for i, lot in enumerate(lots) for t in lot]
    for shape in zip(
        TIME_FORMS,
        ID_FORMS,
        ["double", "wide", "narrow", "double"],
        ["hour", "month", "none", "market"],
        strict=True,
    ):
        check(spark, given_trades, shape)


@pytest.mark.parametrize("shape", random.Random(3).sample(SHAPES, 4))
def test_a_rebuild_stores_the_candles_of_an_external_table(sail: EngineLake, shape: Shape) -> None:
    given_trades = [
        make_trade(i, ROW_TIME + i * timedelta(minutes=7), 100 + i % 7, i + 1, market=("X", "A"))
        for i in range(500)
    ]
    lake = create_external_lake(sail.lake, given_trades, shape)
    for timeframe in TIMEFRAMES:
        assert rebuild(lake, sail.engine, timeframe).watermark_moved
    lakes.assert_equal_to_trades(lake, trades_as_stored(given_trades, shape))
