"""The reference aggregation, compared with a candle by hand and with DuckDB.

All engines are compared with this aggregation, so it needs a check of its own.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import duckdb
import polars as pl
from hypothesis import given

from k2_ohlcv.domain.candle import Candle, Trade, aggregate
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv_tests.support.strategies import trades
from k2_ohlcv_tests.support.trades import make_trade

AT = datetime(2024, 2, 29, 23, 59, tzinfo=UTC)


def trade(number: str, seconds: float, price: str, quantity: str) -> Trade:
    return make_trade(number, AT + timedelta(seconds=seconds), price, quantity, market=("X", "Y"))


def test_a_candle_by_hand() -> None:
    """Ids break ties as numbers: 9 is before 10. A trade at a window's end is in the next window."""
    given_trades = [
        trade("10", 1, "3", "1"),
        trade("9", 1, "2", "1"),
        trade("11", 59.999999, "5", "0.5"),
        trade("8", 60, "7", "1"),
    ]
    first, second = aggregate(given_trades, find_timeframe("1m"))
    assert first == Candle(
        symbol="Y",
        exchange="X",
        window_start=AT,
        window_end=AT + timedelta(minutes=1),
        window_date=AT.date(),
        open_price=Decimal(2),
        high_price=Decimal(5),
        low_price=Decimal(2),
        close_price=Decimal(5),
        volume=Decimal("2.5"),
        trade_count=3,
        vwap=Decimal(3),
    )
    assert second.window_start == AT + timedelta(minutes=1)
    assert second.window_date.isoformat() == "2024-03-01"


def test_vwap_is_rounded_half_even() -> None:
    """A quotient exactly between two values of 8 places is rounded to the even one."""
    (down,) = aggregate(
        [trade("1", 0, "0.00000001", "1"), trade("2", 0, "0.00000002", "1")], find_timeframe("1m")
    )
    (up,) = aggregate(
        [trade("1", 0, "0.00000002", "1"), trade("2", 0, "0.00000001", "1")], find_timeframe("1m")
    )
    (odd,) = aggregate(
        [trade("1", 0, "0.00000003", "1"), trade("2", 0, "0.00000002", "1")], find_timeframe("1m")
    )
    assert (down.vwap, up.vwap, odd.vwap) == (Decimal("2e-8"), Decimal("2e-8"), Decimal("2e-8"))


QUERY = """
select symbol, exchange,
  to_timestamp(0) + to_microseconds(epoch_us("timestamp") // {us} * {us}) as window_start,
  arg_min(price, ("timestamp", length(trade_id), trade_id)) as open_price, max(price) as high_price,
  min(price) as low_price, arg_max(price, ("timestamp", length(trade_id), trade_id)) as close_price,
  sum(quantity)::decimal(29,8) as volume, count(*) as trade_count
from rows group by all order by exchange, symbol, window_start
"""


@given(trades())
def test_duckdb_computes_the_same_candles(given_trades: list[Trade]) -> None:
    """DuckDB computes the same candles from SQL. It cannot divide exactly, so vwap is left out."""
    types = {"price": pl.Decimal(18, 8), "quantity": pl.Decimal(19, 8), "timestamp": pl.Datetime("us", "UTC")}
    rows = pl.DataFrame([vars(t) for t in given_trades], schema_overrides=types)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("rows", rows.to_arrow())
        for timeframe in TIMEFRAMES:
            computed = pl.DataFrame(
                connection.sql(QUERY.format(us=timeframe.micros)).to_arrow_table()
            ).to_dicts()
            assert computed == [
                {name: getattr(candle, name) for name in computed[0]}
                for candle in aggregate(given_trades, timeframe)
            ]
