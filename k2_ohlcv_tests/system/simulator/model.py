"""The expected content of every table in plain Python: live trades, history bounds, frozen candles.

Nothing here reads the lake. `world` compares the lake with this model.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from k2_ohlcv.domain.candle import Candle, Trade, aggregate
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe

#: A market and an id, unique among the trades that ingestion adds.
Key = tuple[str, str, str]
#: A market and the start of a window.
Window = tuple[str, str, datetime]


def window_of(trade: Trade, timeframe: Timeframe) -> Window:
    """The window of a trade."""
    return (trade.exchange, trade.symbol, timeframe.floor(trade.timestamp))


def key_of(trade: Trade) -> Key:
    """The key by which two rows are the same trade."""
    return (trade.exchange, trade.symbol, trade.trade_id)


@dataclass
class Model:
    """The expected state of the lake.

    Attributes:
        trades: the live rows of the trades table. Another writer may have added a row twice.
        states: the live rows at each snapshot that has been current.
        frozen: retention has dropped the trades before this time. It never decreases.
        expired: by timeframe, the time before which candles have been dropped.
        announced: by timeframe, the time before which retention was about to drop trades of a table that
            another writer has replaced. The candles before it may be the only record.
        preserved: by timeframe, the candles before a history bound. No refresh or rebuild may change them.
    """

    trades: Counter[Trade] = field(default_factory=Counter)
    states: dict[int, Counter[Trade]] = field(default_factory=dict)
    frozen: datetime | None = None
    expired: dict[str, datetime] = field(default_factory=dict)
    announced: dict[str, datetime] = field(default_factory=dict)
    preserved: dict[str, list[Candle]] = field(default_factory=lambda: {t.name: [] for t in TIMEFRAMES})

    def history_start(self, timeframe: Timeframe) -> datetime | None:
        """The latest history bound of a table. Candles from here on follow from the trades."""
        name = timeframe.name
        bounds = [self.frozen, self.expired.get(name), self.announced.get(name)]
        return max((b for b in bounds if b is not None), default=None)

    def candles_of_trades(self, timeframe: Timeframe) -> list[Candle]:
        """The candles of the live trades after the history bounds, without refused windows."""
        start = self.history_start(timeframe)
        refused = self.refused_windows(timeframe)
        rows = (t for t in self.trades.elements() if start is None or t.timestamp >= start)
        return aggregate((t for t in rows if window_of(t, timeframe) not in refused), timeframe)

    def refused_windows(self, timeframe: Timeframe) -> set[Window]:
        """The windows after the history bounds that have a trade without quantity."""
        start = self.history_start(timeframe)
        invalid = [t for t in self.trades if t.quantity <= 0 and (start is None or t.timestamp >= start)]
        return {window_of(t, timeframe) for t in invalid}

    def expected_candles(self, timeframe: Timeframe, refused: Iterable[Candle] = ()) -> list[Candle]:
        """All expected candles of a table, by key. Refused windows keep their stored candles."""
        return sort_candles([*self.preserved[timeframe.name], *self.candles_of_trades(timeframe), *refused])

    def preserve(self, timeframe: Timeframe, stored: Iterable[Candle]) -> None:
        """Take the stored candles before the history bounds as those that must not change."""
        start = self.history_start(timeframe)
        self.preserved[timeframe.name] = [c for c in stored if start is not None and c.window_start < start]


def sort_candles(candles: Iterable[Candle]) -> list[Candle]:
    """Sort candles as the reference aggregation does."""
    return sorted(candles, key=lambda c: (c.exchange, c.symbol, c.window_start, c.trade_count, str(c.volume)))


def describe_differences(expected: list[Candle], stored: list[Candle], most: int = 3) -> str:
    """The first rows that only one of the two lists has."""
    left, right = Counter(map(repr, expected)), Counter(map(repr, stored))
    missing, unexpected = list((left - right).elements()), list((right - left).elements())
    lines = [f"{len(missing)} rows are missing and {len(unexpected)} are unexpected"]
    lines += [f"  missing: {row}" for row in missing[:most]] + [
        f"  unexpected: {row}" for row in unexpected[:most]
    ]
    return "\n".join(lines)
