"""The trades of the soak: five-minute batches of many markets, some of them late by minutes to days.

Seeded: the same batches on every machine. Knows nothing of a lake but the form in which trades go in.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from bench.trades import to_decimals
from k2_ohlcv.domain.intervals import to_micros
from k2_ohlcv.lake.dedupe import TradeBatch

BATCH_LENGTH = timedelta(minutes=5)
#: The share of trades that come late, and by how much: as many by minutes as by hours, as by days.
LATE_SHARE = 0.05
_MAX_LATENESS = timedelta(days=4)

#: Midway in a month and far from its ends: late trades stay in it, as most do.
FIRST_BATCH = datetime(2025, 6, 15, tzinfo=UTC)

_SEED = 20250615
_EXCHANGES = ("BINANCE", "KRAKEN", "COINBASE", "BITSTAMP", "OKX")
_MICROS = BATCH_LENGTH // timedelta(microseconds=1)


@dataclass(frozen=True)
class TradeGenerator:
    """So many markets, and so many trades over all of them in each batch."""

    markets: int
    trades: int

    @property
    def names(self) -> list[tuple[str, str]]:
        """Exchange and symbol of each market."""
        return [(_EXCHANGES[i % len(_EXCHANGES)], f"C{i:02d}-USDT") for i in range(self.markets)]

    def batch(self, number: int, start: datetime = FIRST_BATCH) -> TradeBatch:
        """The trades that arrive in the batch of that number, counted from the start, by time.

        An id is its trade's time and the batch's number, and so a late trade has an old one, as on exchanges.
        """
        random = np.random.default_rng([_SEED, number])
        begin = to_micros(start) + number * _MICROS
        moments = begin + random.integers(0, _MICROS, self.trades)
        late = random.random(self.trades) < LATE_SHARE
        least, most = np.log(_MICROS), np.log(_MAX_LATENESS // timedelta(microseconds=1))
        moments[late] -= np.exp(random.uniform(least, most, int(late.sum()))).astype(np.int64)
        moments = np.unique(moments)
        count = len(moments)
        market = (self.markets * random.random(count) ** 2).astype(np.int32)  # a few busy, many quiet
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
