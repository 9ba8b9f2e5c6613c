"""Trades for tests: the one builder, and the series that several tests begin with."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from k2_ohlcv.domain.candle import Trade

#: When the trades of a test begin, if nothing else is said: before a month's end.
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)


def make_trade(
    number: int | str,
    at: datetime = AT,
    price: Decimal | int | str = 100,
    quantity: Decimal | int | str = 1,
    *,
    market: tuple[str, str] = ("BINANCE", "BTCUSDT"),
) -> Trade:
    """A trade.

    Args:
        number: its id.
        at: its time.
        price: its price.
        quantity: its quantity.
        market: exchange and symbol.
    """
    return Trade(*market, str(number), at, Decimal(price), Decimal(quantity))


def week_of_trades() -> list[Trade]:
    """Three days across a month's end, two trades an hour."""
    moments = [AT + timedelta(minutes=30 * i) for i in range(48 * 3)]
    return [make_trade(i, at, 100 + i % 7, f"0.{i % 9 + 1}") for i, at in enumerate(moments)]
