"""Generated trades. A seed makes them the same on every machine.

The trades have the difficulties of real ones: busy and quiet minutes, bursts within a millisecond, a random
walk of prices, ids that grow by a digit during the day. Writing them into a lake is in `lake`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Increase this number when the rows change. Stored data of older versions is then generated again.
VERSION = 1

EXCHANGE = "BINANCE"
#: The first day is the only one of its month, so its 1d table can be rebuilt without other days.
FIRST_DAY = date(2025, 5, 31)

_SEED = 20250531
_DAY_MS = 86_400_000
_SCALE = 100_000_000

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Market:
    """A market.

    Attributes:
        symbol: the symbol.
        share: its share of all trades.
        price: the first price, in 1e-8.
        tick: the smallest step of the price, in 1e-8.
        lot: the smallest step of the quantity, in 1e-8.
        has_bursts: whether trades come in bursts, and minutes are of very different activity.
    """

    symbol: str
    share: float
    price: int
    tick: int
    lot: int
    has_bursts: bool = True


MARKETS = (
    Market("BTC-USDT", 0.4, 104_000 * _SCALE, 1_000_000, 1_000),
    Market("ETH-USDT", 0.3, 2_500 * _SCALE, 1_000_000, 10_000),
    Market("SOL-USDT", 0.2, 155 * _SCALE, 1_000_000, 100_000),
    Market("DOGE-USDT", 0.1, 19_000_000, 1_000, 100_000_000),
)


def zipf_markets(count: int) -> tuple[Market, ...]:
    """As many markets as a large exchange has: the share of a market is proportional to 1 / rank.

    Trades are spread over the day, so that a quiet market has many windows of one trade.
    """
    weights = [1 / rank for rank in range(1, count + 1)]
    total = sum(weights)
    return tuple(
        Market(
            f"M{rank:04}-USDT",
            weight / total,
            (1 + 7919 * rank % 100_000) * _SCALE,
            100_000,
            100_000,
            has_bursts=False,
        )
        for rank, weight in enumerate(weights, start=1)
    )


@dataclass(frozen=True)
class Trades:
    """One market's trades of a day, by time and id: ms since the epoch, and values in 1e-8."""

    market: Market
    ids: Int64s
    millis: Int64s
    prices: Int64s
    quantities: Int64s


def generate_market_day(market: Market, number: int, day: date, rows: int) -> Trades:
    """The trades of one market on one day, always the same for a number of the market."""
    ordinal = (day - FIRST_DAY).days
    random = np.random.default_rng([_SEED, number, ordinal])
    start = (day - date(1970, 1, 1)).days * _DAY_MS
    steps = random.integers(-3, 4, rows)
    walk = market.price // market.tick + np.cumsum(steps)
    # The walk is reflected at half the first price, so no price is zero or less.
    floor = market.price // market.tick // 2
    prices = (floor + np.abs(walk - floor) + 1) * market.tick
    quantities = np.maximum(1, np.exp(random.normal(3.0, 1.5, rows)).astype(np.int64)) * market.lot
    # The ids pass a power of ten in the middle of the first day, where text order would be wrong.
    first = 10**9 - rows // 2 + ordinal * rows
    moments = _moments(random, rows) if market.has_bursts else np.sort(random.integers(0, _DAY_MS, rows))
    return Trades(market, np.arange(first, first + rows), start + moments, prices, quantities)


def _moments(random: np.random.Generator, rows: int) -> Int64s:
    """Milliseconds of a day: minutes of very different activity, with bursts of a few milliseconds."""
    weights = np.exp(random.normal(0.0, 0.8, 1440))
    bursts = max(1, rows // 3)
    minutes = np.sort(random.choice(1440, bursts, p=weights / weights.sum()))
    at = minutes * 60_000 + random.integers(0, 60_000, bursts)
    of = np.concatenate([np.arange(bursts), random.integers(0, bursts, rows - bursts)])
    late = np.where(random.random(rows) < 0.7, 0, random.integers(0, 5, rows))
    return np.sort(np.minimum(at[of[:rows]] + late, _DAY_MS - 1))


def generate_day(day: date, rows: int, markets: Sequence[Market] = MARKETS) -> pa.Table:
    """A day of all markets in the columns of the trades table, without `ingested_at`, by timestamp."""
    counts = [round(rows * market.share) for market in markets]
    counts[0] += rows - sum(counts)  # rounding must not change the number of trades
    parts = [
        generate_market_day(market, number, day, count)
        for number, (market, count) in enumerate(zip(markets, counts, strict=True))
    ]
    table = pa.concat_tables(_rows(part) for part in parts)
    millis = np.concatenate([part.millis for part in parts])
    return table.take(pa.array(np.argsort(millis, kind="stable"))).combine_chunks()


def _rows(part: Trades) -> pa.Table:
    count = len(part.ids)
    return pa.table(
        {
            "exchange": pa.repeat(EXCHANGE, count),
            "symbol": pa.repeat(part.market.symbol, count),
            "trade_id": pa.array(part.ids).cast(pa.string()),
            "timestamp": pa.array(part.millis * 1000).cast(pa.timestamp("us", "UTC")),
            "price": to_decimals(part.prices, 18),
            "quantity": to_decimals(part.quantities, 19),
        }
    )


def to_decimals(units: Int64s, precision: int) -> pa.Array:
    """Decimals of scale 8 from counts of 1e-8. The bits are copied, so the values are exact."""
    halves = np.stack([units, units >> 63], axis=1)  # little-endian two's complement of 128 bits
    kind = pa.decimal128(precision, 8)
    return pa.Array.from_buffers(kind, len(units), [None, pa.py_buffer(halves.tobytes())])


def generate_days(count: int) -> Iterator[date]:
    """The generated days, in order."""
    return (FIRST_DAY + timedelta(days=i) for i in range(count))
