"""The two lines behind which history stands still: where trades have expired, and where candles have.

Two table properties, moved forward only, by the very commit that drops (`expiry`). Who has to stay ahead of
the lines asks here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.window import Interval, coalesce, intersect_all

#: On trades: candles of windows before this are the only record left.
FROZEN = "k2.frozen-before"
#: On a candle table: candles of windows before this have been dropped.
EXPIRED = "k2.expired-before"

_LAST = datetime.max.replace(tzinfo=UTC)


def line_of(table: Table, name: str) -> datetime | None:
    """The line that a table's property holds, or None."""
    text = table.properties.get(name)
    return datetime.fromisoformat(text) if text else None


def moved_to(table: Table, name: str, line: datetime) -> dict[str, str]:
    """The property that moves a line, or nothing where it is there already: lines never move back."""
    current = line_of(table, name)
    return {name: line.isoformat()} if current is None or current < line else {}


@dataclass(frozen=True)
class Lines:
    """The lines that hold for a candle table.

    Attributes:
        timeframe: the table.
        frozen: trades before this are gone.
        expired: candles before this are gone.
    """

    timeframe: Timeframe
    frozen: datetime | None
    expired: datetime | None

    @classmethod
    def of(cls, candles: Table, trades: Table, timeframe: Timeframe) -> "Lines":
        """The lines as two loaded tables say them."""
        return cls(timeframe, line_of(trades, FROZEN), line_of(candles, EXPIRED))

    @property
    def start(self) -> datetime | None:
        """The start of the first window that is ahead of both lines; None where there is no line."""
        lines = [line for line in (self.frozen, self.expired) if line is not None]
        if not lines:
            return None
        floor = self.timeframe.floor(max(lines))
        return floor if floor == max(lines) else floor + self.timeframe.length

    def ahead(self, intervals: Iterable[Interval]) -> list[Interval]:
        """What of some intervals lies ahead of the lines."""
        start = self.start
        return coalesce(intervals) if start is None else intersect_all(intervals, [Interval(start, _LAST)])

    def windows_behind(self, intervals: Iterable[Interval]) -> int:
        """How many windows of some intervals lie behind a line."""
        aligned = self.timeframe.align(intervals)
        return _windows(aligned, self.timeframe) - _windows(self.ahead(aligned), self.timeframe)

    def refuse(self, partitions: Sequence[Interval]) -> None:
        """Hold partitions that somebody asked to rebuild to the lines.

        Raises:
            UsageError: some lie behind a line as a whole; the message names them.
        """
        key = self.timeframe.grain.key
        dropped = [key(p) for p in partitions if self.expired and p.end <= self.expired]
        frozen = [
            key(p) for p in partitions if self.frozen and p.end <= self.frozen and key(p) not in dropped
        ]
        reasons = []
        if dropped:
            reasons.append(
                f"{_named(dropped)} are past retention, which ended before {self.expired:%Y-%m-%d}: rebuilt, "
                f"they would be dropped again (K2_RETENTION_{self.timeframe.name.upper()})"
            )
        if frozen:
            reasons.append(
                f"{_named(frozen)} are frozen: their trades before {self.frozen:%Y-%m-%d} have been expired, "
                "and these candles are the only record left (K2_RETENTION_TRADES)"
            )
        if reasons:
            raise UsageError(f"{self.timeframe.table} cannot be rebuilt there: {'; '.join(reasons)}")


def _windows(intervals: Iterable[Interval], timeframe: Timeframe) -> int:
    return sum((i.end - i.start) // timeframe.length for i in intervals)


def _named(keys: Sequence[str], most: int = 10) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"partitions {', '.join(keys[:most])}{more}"
