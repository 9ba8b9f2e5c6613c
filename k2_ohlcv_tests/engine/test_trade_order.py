"""The order of trades with ids of every kind, compared with the reference aggregation."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.intervals import to_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine import rollup
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade
from k2_ohlcv_tests.support.windows import compute_candles, list_trade_days

#: Few moments, so that most trades share one. The last is in another minute.
MOMENTS = [AT, AT + timedelta(microseconds=1), AT + timedelta(seconds=59), AT + timedelta(minutes=61)]
#: With this limit on the markets of the exact order, all trades take the packed one.
NO_MARKETS = -1
OTHER_IDS = [
    "7", "07", "007", "+7", " 7", "7 ", "-7", "7.0", "7e1", "10", "9", "0", "00", "1_0",
    "9899999999", "9900000000", "9999999999", "68719476735", "1234567890123456789", "99999999999999999999",
    "a-1", "0f1c-7", "é", "-", "1-1",
]  # fmt: skip


@st.composite
def trades_with_any_ids(draw: st.DrawFn) -> list[Trade]:
    """Trades of one market that mostly share their time, with ids of one kind or of several kinds."""
    moments = draw(st.lists(st.sampled_from(MOMENTS), min_size=2, max_size=12))
    kind = draw(st.sampled_from(["generated", "other", "mixed"]))
    drawn: dict[str, Trade] = {}
    for number, at in enumerate(moments):
        generated = [f"{to_micros(at)}-{n}" for n in (number, 0, 10, 9, 100_000_000)]
        generated += [f"{to_micros(at)}-0{number}", f"{to_micros(at) + 1}-{number}", f"{to_micros(at)}-"]
        ids = {"generated": generated, "other": OTHER_IDS, "mixed": [*generated, *OTHER_IDS]}[kind]
        trade_id = draw(st.sampled_from(ids))
        price = draw(st.sampled_from(["0.00000001", "1", "999999999.99999999", "1000000000", "9999999999"]))
        trade = make_trade(trade_id, at, Decimal(price) + Decimal(number).scaleb(-8) * (price < "9"), 1)
        drawn[trade_id] = replace(trade, trade_id=trade_id)
    return list(drawn.values())


def check(lake: EngineLake, lots: list[list[Trade]]) -> None:
    """Compare all timeframes. Each lot is a market of its own."""
    given_trades = [
        replace(t, symbol=f"M{i}", quantity=Decimal(1)) for i, lot in enumerate(lots) for t in lot
    ]
    lakes.drop_tables(lake.lake)
    table, days = lakes.add_trades(lake.lake, given_trades), list_trade_days(given_trades)
    for timeframe in TIMEFRAMES:
        expected = aggregate(given_trades, timeframe)
        for few in (NO_MARKETS, len(lots)):
            with patch.object(rollup, "_FEW_MARKETS", few):
                assert compute_candles(lake.engine, table, timeframe, days) == expected


@settings(max_examples=15)
@given(st.lists(trades_with_any_ids(), min_size=1, max_size=12))
def test_open_and_close_follow_the_total_order(sail: EngineLake, lots: list[list[Trade]]) -> None:
    """Whichever ids have a packed order, open and close are those of the reference."""
    check(sail, lots)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@settings(max_examples=1)
@given(st.lists(trades_with_any_ids(), min_size=12, max_size=24))
def test_spark_follows_the_same_order(spark: EngineLake, lots: list[list[Trade]]) -> None:
    """Spark's decimals and casts give the same packed order."""
    check(spark, lots)
