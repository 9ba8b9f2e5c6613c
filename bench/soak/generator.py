"""The trades of the soak: five-minute batches of many markets, with trades late by minutes to days.

A seed makes the batches the same on every machine. Appending them to a lake is in `run`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from bench.trades import to_decimals
from k2_ohlcv.domain.intervals import to_micros
from k2_ohlcv.lake.dedupe import TradeBatch

BATCH_LENGTH = timedelta(minutes=5)
#: The share of late trades. Delays of minutes, hours and days are equally frequent.
LATE_SHARE = 0.05
_MAX_LATENESS = timedelta(days=4)

#: In the middle of a month, so that late trades are of the same month.
FIRST_BATCH = datetime(2025, 6, 15, tzinfo=UTC)

_SEED = 20250615
_EXCHANGES = ("BINANCE", "KRAKEN", "COINBASE", "BITSTAMP", "OKX")
_MICROS = BATCH_LENGTH // timedelta(microseconds=1)


@dataclass(frozen=True)
class TradeGenerator:
    """Generates batches with a number of markets, and of trades over all markets."""

    markets: int
    trades: int

    @property
    def names(self) -> list[tuple[str, str]]:
        """Exchange and symbol of each market."""
        return [(_EXCHANGES[i % len(_EXCHANGES)], f"C{i:02d}-USDT") for i in range(self.markets)]

    def batch(self, number: int, start: datetime = FIRST_BATCH) -> TradeBatch:
        """The trades of the batch with this number since the start, by time.

        An id is the trade's time and the batch's number. A late trade has an old id, as on exchanges.
        """
        random = np.random.default_rng([_SEED, number])
        begin = to_micros(start) + number * _MICROS
        moments = begin + random.integers(0, _MICROS, self.trades)
        late = random.random(self.trades) < LATE_SHARE
        least, most = np.log(_MICROS), np.log(_MAX_LATENESS // timedelta(microseconds=1))
        moments[late] -= np.exp(random.uniform(least, most, int(late.sum()))).astype(np.int64)
        moments = np.unique(moments)
        count = len(moments)
        market = (self.markets * random.random(count) ** 2).astype(
            np.int32
        )  # few busy markets, many quiet ones
        prices = (1000 + 50 * market + random.integers(-400, 400, count)).astype(np.int64) * 1_000_000
        quantities = np.exp(random.normal(14.0, 2.0, count)).astype(np.int64) + 1
        rows = pa.table(
            {
                "market": pa.array(market),
                "trade_id": pa.array(moments * 1000 + number % 1000).cast(pa.string()),
                "timestamp": pa.array(moments).cast(pa.timestamp("us", "UTC")),
                "price": to_decimals(prices, 18),
                "quantity": to_decimals(quantities, 19),
            }
        )
        return TradeBatch(rows, self.names, np.zeros(count, bool), np.arange(count))
