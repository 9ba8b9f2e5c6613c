"""Trades and candles, and the reference aggregation of trades into candles.

`aggregate` is slow and obvious on purpose. Tests compare every engine with it. Production code does not
call it.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, localcontext
from fractions import Fraction

from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.types import NOTIONAL, PRICE

#: The candle columns that identify a candle.
KEY_COLUMNS = ("exchange", "symbol", "window_start")
#: The candle columns computed from trades. A candle equals its trades when these columns are equal.
VALUE_COLUMNS = (
    "window_end",
    "window_date",
    "open_price",
    "high_price",
    "low_price",
    "close_price",
    "volume",
    "trade_count",
    "vwap",
)
#: When the row was first written, and when one of its values last changed.
AUDIT_COLUMNS = ("created_at", "updated_at")

#: Digits after the decimal point in prices, quantities and volumes.
SCALE = PRICE.scale
#: high x volume is an upper bound of the notional. Engines may overflow silently from this value on.
NOTIONAL_LIMIT = Decimal(10) ** (NOTIONAL.precision - NOTIONAL.scale)


@dataclass(frozen=True)
class Trade:
    """One trade. The timestamp is a timezone-aware datetime in UTC, with microseconds."""

    exchange: str
    symbol: str
    trade_id: str
    timestamp: datetime
    price: Decimal
    quantity: Decimal

    @property
    def sort_key(self) -> tuple[datetime, int, str]:
        """The total order of a market's trades. Numeric ids compare as numbers."""
        return (self.timestamp, len(self.trade_id), self.trade_id)


@dataclass(frozen=True)
class Candle:
    """One candle: the columns of a candle row without `created_at` and `updated_at`."""

    symbol: str
    exchange: str
    window_start: datetime
    window_end: datetime
    window_date: date
    open_price: Decimal
    high_price: Decimal
    low_price: Decimal
    close_price: Decimal
    volume: Decimal
    trade_count: int
    vwap: Decimal


def aggregate(trades: Iterable[Trade], timeframe: Timeframe) -> list[Candle]:
    """Aggregate trades into candles, sorted by exchange, symbol and window start.

    Open and close are the prices at the least and the greatest `Trade.sort_key`. vwap is the exact sum of
    price x quantity, divided by volume and rounded half-even to 8 places.
    """
    groups: dict[tuple[str, str, datetime], list[Trade]] = defaultdict(list)
    for trade in trades:
        groups[trade.exchange, trade.symbol, timeframe.floor(trade.timestamp)].append(trade)
    return [_build_candle(group, timeframe) for _, group in sorted(groups.items())]


def _build_candle(group: list[Trade], timeframe: Timeframe) -> Candle:
    ordered = sorted(group, key=lambda trade: trade.sort_key)
    window = timeframe.window(ordered[0].timestamp)
    prices = [trade.price for trade in ordered]
    with localcontext(prec=76):
        volume = sum((trade.quantity for trade in ordered), Decimal(0))
    notional = sum((Fraction(trade.price) * Fraction(trade.quantity) for trade in ordered), Fraction(0))
    return Candle(
        symbol=ordered[0].symbol,
        exchange=ordered[0].exchange,
        window_start=window.start,
        window_end=window.end,
        window_date=window.start.date(),
        open_price=prices[0],
        high_price=max(prices),
        low_price=min(prices),
        close_price=prices[-1],
        volume=volume,
        trade_count=len(ordered),
        # round() of a Fraction is half-even.
        vwap=Decimal(round(notional / Fraction(volume) * 10**SCALE)).scaleb(-SCALE),
    )
