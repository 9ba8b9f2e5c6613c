"""The reference aggregation, by hand and against DuckDB: what all else is held against must be right."""

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
    """Ties are broken by id as a number: 9 comes before 10. A trade at the end belongs to the next window."""
    some = [
        trade("10", 1, "3", "1"),
        trade("9", 1, "2", "1"),
        trade("11", 59.999999, "5", "0.5"),
        trade("8", 60, "7", "1"),
    ]
    first, second = aggregate(some, find_timeframe("1m"))
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
    """A quotient exactly between two values of 8 places goes to the even one."""
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
def test_duckdb_agrees(some: list[Trade]) -> None:
    """An independent engine, told the definition in SQL, finds the same candles (vwap it cannot divide)."""
    types = {"price": pl.Decimal(18, 8), "quantity": pl.Decimal(19, 8), "timestamp": pl.Datetime("us", "UTC")}
    rows = pl.DataFrame([vars(t) for t in some], schema_overrides=types)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("rows", rows.to_arrow())
        for each in TIMEFRAMES:
            found = pl.DataFrame(connection.sql(QUERY.format(us=each.micros)).to_arrow_table()).to_dicts()
            assert found == [
                {name: getattr(candle, name) for name in found[0]} for candle in aggregate(some, each)
            ]
