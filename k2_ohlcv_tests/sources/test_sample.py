"""The bundled sample: its size, its source, and independent candles of the same trades."""

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


def test_the_sample_is_small() -> None:
    """The sample is in the package."""
    assert sample.sample_trades_file().stat().st_size < 750_000


def test_the_sample_agrees_with_independent_daily_candles() -> None:
    """Every field of the six full days agrees, to the 12 significant digits of the source."""
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


def test_the_sample_has_every_row_of_its_source(shared_data: Path) -> None:
    """The numbers are the same row by row."""

    def numbers(path: Path) -> list[list[Decimal]]:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
        return [[Decimal(cell) for cell in line.split(",")] for line in lines]

    assert numbers(sample.sample_trades_file()) == numbers(
        shared_data / "bitstamp-btcusd-2013" / "trades.csv.gz"
    )
