"""The trade builder of all tests, and a series of trades that several tests start from."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from k2_ohlcv.domain.candle import Trade

#: The default time of a trade: shortly before a month's end.
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)


def make_trade(
    number: int | str,
    at: datetime = AT,
    price: Decimal | int | str = 100,
    quantity: Decimal | int | str = 1,
    *,
    market: tuple[str, str] = ("BINANCE", "BTCUSDT"),
) -> Trade:
    """Build a trade.

    Args:
        number: the trade id.
        at: the time.
        price: the price.
        quantity: the quantity.
        market: exchange and symbol.
    """
    return Trade(*market, str(number), at, Decimal(price), Decimal(quantity))


def week_of_trades() -> list[Trade]:
    """Three days of trades across a month's end, two trades an hour."""
    moments = [AT + timedelta(minutes=30 * i) for i in range(48 * 3)]
    return [make_trade(i, at, 100 + i % 7, f"0.{i % 9 + 1}") for i, at in enumerate(moments)]
