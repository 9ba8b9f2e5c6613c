"""The bundled sample: real trades, and daily candles of an independent source. See README.md."""

import csv
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

_FOLDER = Path(__file__).parent

#: The exchange and the symbol of the sample.
MARKET = ("BITSTAMP", "BTCUSD")


@dataclass(frozen=True)
class DailyCandle:
    """A daily candle (UTC) from Bitcoincharts, with 12 significant digits.

    `notional` is the sum of price times quantity. `vwap` is notional divided by volume.
    """

    day: date
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    notional: Decimal
    vwap: Decimal


def sample_trades_file() -> Path:
    """The path of the trades file, a plain table for `ingest`."""
    return _FOLDER / "bitstamp-btcusd-2013.csv.gz"


def read_daily_candles() -> list[DailyCandle]:
    """Read the independent daily candles of the six full days, in order."""
    with (_FOLDER / "candles-1d.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [DailyCandle(date.fromisoformat(day), *map(Decimal, values)) for day, *values in rows]
