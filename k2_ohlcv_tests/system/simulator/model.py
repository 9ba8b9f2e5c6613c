"""What every table must hold, in plain Python: live trades, lines of history, and what lies behind them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from k2_ohlcv.domain.candle import Candle, Trade, aggregate
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe

#: A market and an id: what is unique among the trades that ingestion adds.
Key = tuple[str, str, str]
#: A market and the start of a window.
Window = tuple[str, str, datetime]


def window_of(trade: Trade, timeframe: Timeframe) -> Window:
    """The window that a trade falls into."""
    return (trade.exchange, trade.symbol, timeframe.floor(trade.timestamp))


def key_of(trade: Trade) -> Key:
    """What makes two rows the same trade."""
    return (trade.exchange, trade.symbol, trade.trade_id)


@dataclass
class Model:
    """The truth beside the lake.

    Attributes:
        trades: the live rows of the trades table; another writer may have put one in twice.
        states: the live rows at each snapshot that was ever current.
        frozen: trades before this have been dropped by retention; it never moves back.
        expired: candles before this have been dropped, by timeframe.
        kept: candles behind a line, by timeframe: no refresh and no rebuild may change them.
    """

    trades: Counter[Trade] = field(default_factory=Counter)
    states: dict[int, Counter[Trade]] = field(default_factory=dict)
    frozen: datetime | None = None
    expired: dict[str, datetime] = field(default_factory=dict)
    kept: dict[str, list[Candle]] = field(default_factory=lambda: {t.name: [] for t in TIMEFRAMES})

    def start(self, timeframe: Timeframe) -> datetime | None:
        """Where a table's history moves: the later of its lines. They lie between days."""
        lines = [line for line in (self.frozen, self.expired.get(timeframe.name)) if line is not None]
        return max(lines, default=None)

    def ahead(self, timeframe: Timeframe) -> list[Candle]:
        """The candles that follow from the live trades, ahead of the lines."""
        start = self.start(timeframe)
        unfit = self.unfit(timeframe)
        rows = (t for t in self.trades.elements() if start is None or t.timestamp >= start)
        return aggregate((t for t in rows if window_of(t, timeframe) not in unfit), timeframe)

    def unfit(self, timeframe: Timeframe) -> set[Window]:
        """The windows ahead of the lines that have trades without any quantity: these are refused."""
        start = self.start(timeframe)
        bad = [t for t in self.trades if t.quantity <= 0 and (start is None or t.timestamp >= start)]
        return {window_of(t, timeframe) for t in bad}

    def wanted(self, timeframe: Timeframe, refused: Iterable[Candle] = ()) -> list[Candle]:
        """All that a table must hold, by key; refused windows hold what they held."""
        return by_key([*self.kept[timeframe.name], *self.ahead(timeframe), *refused])

    def keep(self, timeframe: Timeframe, stored: Iterable[Candle]) -> None:
        """Take what is stored behind the lines as what has to stay there."""
        start = self.start(timeframe)
        self.kept[timeframe.name] = [c for c in stored if start is not None and c.window_start < start]


def by_key(candles: Iterable[Candle]) -> list[Candle]:
    """Candles in the order of the reference aggregation."""
    return sorted(candles, key=lambda c: (c.exchange, c.symbol, c.window_start, c.trade_count, str(c.volume)))


def differences(wanted: list[Candle], stored: list[Candle], most: int = 3) -> str:
    """The first rows that only one side has."""
    left, right = Counter(map(repr, wanted)), Counter(map(repr, stored))
    missing, more = list((left - right).elements()), list((right - left).elements())
    lines = [f"{len(missing)} rows are missing and {len(more)} should not be there"]
    lines += [f"  missing: {row}" for row in missing[:most]] + [f"  not wanted: {row}" for row in more[:most]]
    return "\n".join(lines)
