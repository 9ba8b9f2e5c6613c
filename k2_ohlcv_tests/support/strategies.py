"""Random trades: shared times, ids of different lengths, window edges, huge and tiny quantities."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import MICROSECOND
from k2_ohlcv_tests.support.trades import make_trade

#: Moments at which errors are likely: midnights, month ends, leap days, year ends.
EDGES = [
    datetime(2023, 12, 31, 23, 59, tzinfo=UTC),
    datetime(2024, 2, 28, 23, 58, tzinfo=UTC),
    datetime(2024, 2, 29, 23, 59, tzinfo=UTC),
    datetime(2024, 3, 10, 11, 30, tzinfo=UTC),
]
MARKETS = [("BINANCE", "BTCUSDT"), ("BINANCE", "ETHUSDT"), ("KRAKEN", "BTCUSDT")]


def decimals(least: str, most: str) -> st.SearchStrategy[Decimal]:
    """Positive decimals of at most 8 places, both small and large."""
    units = int(Decimal(most) * 10**8)
    exact = st.integers(int(Decimal(least) * 10**8), units)
    tiny = st.integers(1, 1000)
    return st.one_of(exact, tiny).map(lambda n: Decimal(n).scaleb(-8))


def moments() -> st.SearchStrategy[datetime]:
    """Moments near the edges. Many repeat, or are a window's first or last microsecond."""
    steps = st.sampled_from([0, 1, 59_999_999, 60_000_000, 119_999_999, 120_000_000, 300_000_000])
    free = st.integers(0, 7_200_000_000)
    return st.builds(
        lambda edge, micros: edge + micros * MICROSECOND, st.sampled_from(EDGES), st.one_of(steps, free)
    )


@st.composite
def trades(draw: st.DrawFn, most: int = 60) -> list[Trade]:
    """Trades with unique (exchange, symbol, trade_id), in random order."""
    count = draw(st.integers(1, most))
    numbers = draw(st.lists(st.integers(1, 10**6), min_size=count, max_size=count, unique=True))
    drawn = []
    for number in numbers:
        exchange, symbol = draw(st.sampled_from(MARKETS))
        price = draw(decimals("0.00000001", "99999"))
        quantity = draw(st.one_of(decimals("0.00000001", "9999"), st.just(Decimal("12345678901.12345678"))))
        drawn.append(make_trade(number, draw(moments()), price, quantity, market=(exchange, symbol)))
    return drawn


def move_in_time(trade: Trade, by: timedelta) -> Trade:
    """A new trade like this one at another time."""
    return replace(trade, trade_id=trade.trade_id + "9", timestamp=trade.timestamp + by)
