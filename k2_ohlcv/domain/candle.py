"""What a trade and a candle are, and the definition of one from the other.

`aggregate` is slow and obvious on purpose: it is what every engine is held against. Nothing in production
calls it.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, localcontext
from fractions import Fraction

from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.types import NOTIONAL, PRICE

#: The candle columns that say which candle it is.
KEY_COLUMNS = ("exchange", "symbol", "window_start")
#: The candle columns that follow from the trades: equal to the trades means that these are equal.
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
#: The two clocks: when the row first was, and when a value of it last changed.
AUDIT_COLUMNS = ("created_at", "updated_at")

#: Digits after the point in prices, quantities and what is made of them.
SCALE = PRICE.scale
#: high x volume bounds the notional, which engines may wrap silently from here on.
NOTIONAL_LIMIT = Decimal(10) ** (NOTIONAL.precision - NOTIONAL.scale)


@dataclass(frozen=True)
class Trade:
    """One trade: a row of the truth. The timestamp is aware, in UTC, to the microsecond."""

    exchange: str
    symbol: str
    trade_id: str
    timestamp: datetime
    price: Decimal
    quantity: Decimal

    @property
    def sort_key(self) -> tuple[datetime, int, str]:
        """The total order of a market's trades, in which numeric ids compare as numbers."""
        return (self.timestamp, len(self.trade_id), self.trade_id)


@dataclass(frozen=True)
class Candle:
    """One candle without its clocks: what a row of a candle table must say."""

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
    """The candles of these trades, by exchange, symbol and window start. The definition.

    Open and close are the prices at the least and the greatest `Trade.sort_key`. vwap is the exact sum of
    price x quantity over volume, rounded half-even to 8 places.
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
