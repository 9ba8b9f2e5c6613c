"""The rollup against the reference aggregation, on both engines."""

from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.candle import KEY_COLUMNS, Candle, Trade, aggregate
from k2_ohlcv.domain.intervals import Interval, coalesce
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.engine import rollup
from k2_ohlcv.engine.rollup import compute_windows
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.frames.candles import candles_from_windows
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.strategies import trades


def computed(
    each_engine: EngineLake, timeframe: Timeframe, intervals: list[Interval], cache: WindowCache | None = None
) -> list[Candle]:
    table = each_engine.lake.trades()
    snapshot = table.current_snapshot()
    assert snapshot is not None
    found = compute_windows(
        each_engine.engine, table, snapshot.snapshot_id, timeframe, intervals, cache=cache
    )
    candles, _ = candles_from_windows(found, timeframe)
    return [Candle(**row) for row in candles.sort(*KEY_COLUMNS).to_dicts()]


def days_of(some: list[Trade]) -> list[Interval]:
    return coalesce(Grain.DAY.partition(trade.timestamp) for trade in some)


def check(each_engine: EngineLake, some: list[Trade]) -> None:
    lakes.drop_tables(each_engine.lake)
    lakes.add_trades(each_engine.lake, some)
    for cache in (None, WindowCache(TIMEFRAMES)):
        for each in TIMEFRAMES:
            assert computed(each_engine, each, days_of(some), cache) == aggregate(some, each), each.name


@given(trades())
def test_sail_gives_the_reference_windows(sail: EngineLake, some: list[Trade]) -> None:
    """Scanned alone or shared among the five, windows are those of the reference."""
    check(sail, some)


@given(trades())
def test_what_a_scan_found_by_the_way_is_kept_across_parts(sail: EngineLake, some: list[Trade]) -> None:
    """Days scanned one by one for 1m serve the other tables, whole or in parts, each once."""
    lakes.drop_tables(sail.lake)
    lakes.add_trades(sail.lake, some)
    cache = WindowCache(TIMEFRAMES)
    finest, *others = TIMEFRAMES
    days = Grain.DAY.partitions(days_of(some))
    with patch.object(rollup, "read_trades", wraps=rollup.read_trades) as scans:
        found = [candle for day in days for candle in computed(sail, finest, [day], cache)]
        assert sorted(found, key=key) == sorted(aggregate(some, finest), key=key)
        for other in others[:-1]:
            parts = [candle for day in days for candle in computed(sail, other, [day], cache)]
            assert sorted(parts, key=key) == sorted(aggregate(some, other), key=key)
        assert computed(sail, others[-1], days_of(some), cache) == aggregate(some, others[-1])
        assert scans.call_count == len(days)
        assert computed(sail, others[-1], days_of(some), cache) == aggregate(some, others[-1])
        assert scans.call_count == len(days) + 1


def key(candle: Candle) -> tuple[object, ...]:
    return tuple(getattr(candle, name) for name in KEY_COLUMNS)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@settings(max_examples=1)
@given(st.lists(trades(), min_size=12, max_size=12))
def test_spark_gives_the_reference_windows(spark: EngineLake, lots: list[list[Trade]]) -> None:
    """Real Spark gives the same windows from the same expression: a dozen cases at once, as it is slow."""
    check(spark, [replace(t, exchange=f"{t.exchange}-{i}") for i, some in enumerate(lots) for t in some])
