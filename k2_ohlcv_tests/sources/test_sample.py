"""The bundled sample: small, the whole of its source, and in agreement with someone else's candles."""

import gzip
from collections import defaultdict
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

from k2_ohlcv.sources import sample
from k2_ohlcv.sources.reader import read_file


def rows() -> list[dict[str, Any]]:
    exchange, symbol = sample.MARKET
    batches = list(read_file(sample.sample_trades_file(), exchange=exchange, symbol=symbol))
    assert sum(b.rejected.num_rows for b in batches) == 18
    return [row for b in batches for row in b.trades.to_pylist()]


def test_it_is_small() -> None:
    """It travels in the package."""
    assert sample.sample_trades_file().stat().st_size < 750_000


def test_it_agrees_with_independent_daily_candles() -> None:
    """Every field of the six full days, to the 12 significant digits that the source gives."""
    days = defaultdict(list)
    for row in rows():
        days[row["timestamp"].date()].append((row["price"], row["quantity"]))
    twelve = Context(prec=12).plus
    for candle in sample.read_daily_candles():
        prices = [price for price, _ in days[candle.day]]
        volume = sum(quantity for _, quantity in days[candle.day])
        notional = sum(price * quantity for price, quantity in days[candle.day])
        assert (prices[0], max(prices), min(prices), prices[-1]) == (
            candle.open,
            candle.high,
            candle.low,
            candle.close,
        )
        assert twelve(volume) == candle.volume
        assert twelve(notional) == candle.notional
        assert twelve(notional / volume) == candle.vwap
    assert len(sample.read_daily_candles()) == 6


def test_it_is_the_whole_of_its_source(real_data: Path) -> None:
    """Row by row the same numbers."""

    def numbers(path: Path) -> list[list[Decimal]]:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
        return [[Decimal(cell) for cell in line.split(",")] for line in lines]

    assert numbers(sample.sample_trades_file()) == numbers(
        real_data / "bitstamp-btcusd-2013" / "trades.csv.gz"
    )
