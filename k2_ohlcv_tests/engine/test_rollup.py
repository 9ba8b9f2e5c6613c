"""The rollup, compared with the reference aggregation on both engines."""

from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.candle import KEY_COLUMNS, Candle, Trade, aggregate
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.engine import rollup
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.strategies import trades
from k2_ohlcv_tests.support.windows import compute_candles, list_trade_days


def check(each_engine: EngineLake, given_trades: list[Trade]) -> None:
    lakes.drop_tables(each_engine.lake)
    table, days = lakes.add_trades(each_engine.lake, given_trades), list_trade_days(given_trades)
    for cache, few in ((None, -1), (None, 100), (WindowCache(TIMEFRAMES), -1)):
        with patch.object(rollup, "_FEW_MARKETS", few):  # -1: all trades take the packed order
            for timeframe in TIMEFRAMES:
                assert compute_candles(each_engine.engine, table, timeframe, days, cache) == aggregate(
                    given_trades, timeframe
                )


@given(trades())
def test_sail_gives_the_reference_windows(sail: EngineLake, given_trades: list[Trade]) -> None:
    """Windows equal the reference, whether each timeframe scans alone or all share one scan."""
    check(sail, given_trades)


@given(trades())
def test_one_scan_serves_all_timeframes_and_partitions(sail: EngineLake, given_trades: list[Trade]) -> None:
    """The scans of 1m, a day each, serve every other table once, as a whole or in parts."""
    lakes.drop_tables(sail.lake)
    table, engine = lakes.add_trades(sail.lake, given_trades), sail.engine
    cache = WindowCache(TIMEFRAMES)
    finest, *longer = TIMEFRAMES
    days = Grain.DAY.partitions(list_trade_days(given_trades))
    with patch.object(rollup, "read_trades", wraps=rollup.read_trades) as scans:
        candles = [candle for day in days for candle in compute_candles(engine, table, finest, [day], cache)]
        assert sorted(candles, key=key) == sorted(aggregate(given_trades, finest), key=key)
        for timeframe in longer[:-1]:
            parts = [
                candle for day in days for candle in compute_candles(engine, table, timeframe, [day], cache)
            ]
            assert sorted(parts, key=key) == sorted(aggregate(given_trades, timeframe), key=key)
        assert compute_candles(engine, table, longer[-1], list_trade_days(given_trades), cache) == aggregate(
            given_trades, longer[-1]
        )
        assert scans.call_count == len(days)
        assert compute_candles(engine, table, longer[-1], list_trade_days(given_trades), cache) == aggregate(
            given_trades, longer[-1]
        )
        assert scans.call_count == len(days) + 1


def key(candle: Candle) -> tuple[object, ...]:
    return tuple(getattr(candle, name) for name in KEY_COLUMNS)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@settings(max_examples=1)
@given(st.lists(trades(), min_size=12, max_size=12))
def test_spark_gives_the_reference_windows(spark: EngineLake, lots: list[list[Trade]]) -> None:
    """Apache Spark computes the same windows. It is slow, so a dozen cases are in one table."""
    check(spark, [replace(t, exchange=f"{t.exchange}-{i}") for i, lot in enumerate(lots) for t in lot])
