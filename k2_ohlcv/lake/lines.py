"""The two lines behind which history stands still: where trades have expired, and where candles have.

Two table properties, moved forward by the very commit that drops (`expiry`), and back by a person only. Who
has to stay ahead of the lines asks here. Someone else's trades table has no such property: its line is
counted from its head. A candle table remembers the line of our own trades: the trades table may be created
anew without its property, and the frozen candles are then the only record left.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pyiceberg.table import Table

from k2_ohlcv.domain.errors import ContractError, UsageError
from k2_ohlcv.domain.retention import reference
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.window import Interval, coalesce, intersect_all, subtract
from k2_ohlcv.lake.changes import trades_spans
from k2_ohlcv.lake.files import live_files
from k2_ohlcv.lake.foreign import ForeignTrades
from k2_ohlcv.lake.watermark import Watermark

#: On trades, and remembered on candle tables: candles of windows before this are the only record left.
FROZEN = "k2.frozen-before"
#: On a candle table: candles of windows before this have been dropped.
EXPIRED = "k2.expired-before"

FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def line_of(table: Table, name: str) -> datetime | None:
    """The line that a table's property holds, or None. A moment without a zone is UTC.

    Raises:
        ContractError: the property holds no moment.
    """
    text = table.properties.get(name)
    try:
        line = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise ContractError(
            f"the property {name} of {'.'.join(table.name())} is {text!r}, and no moment such as "
            "2024-05-01T00:00:00+00:00. Correct it"
        ) from None
    return line.replace(tzinfo=UTC) if line and line.tzinfo is None else line


def moved_to(table: Table, name: str, line: datetime) -> dict[str, str]:
    """The property that moves a line, or nothing where it is there already: lines never move back."""
    current = line_of(table, name)
    return {name: line.isoformat()} if current is None or current < line else {}


def remembered(candles: Table, trades: Table) -> dict[str, str]:
    """The property by which a candle table remembers the frozen line of our own trades, if it is to move."""
    line = None if isinstance(trades, ForeignTrades) else line_of(trades, FROZEN)
    return moved_to(candles, FROZEN, line) if line else {}


def newest_trade(trades: Table) -> datetime | None:
    """The newest trade, by the bounds of the files.

    Files of which nothing is known say nothing, nor does a bound beyond the times that a trade can have.
    """
    files = live_files(trades, trades.metadata.current_snapshot_id)
    return max((f.latest for f in files if not f.is_delete and f.latest is not None), default=None)


def head_of(candles: Table, trades: Table) -> datetime | None:
    """The newest trade: what a watermark covers, and what the line of someone else's trades is counted from.

    Where there is such a line it does not go back, and so neither does the line, although the owner may roll
    the table back. A head of another table, or one that is still to come, says nothing.
    """
    newest, mark = newest_trade(trades), Watermark.of(candles)
    if _kept(trades) is None or mark is None or mark.head is None or mark.head > datetime.now(UTC):
        return newest
    if trades.metadata.snapshot_by_id(mark.snapshot_id) is None:
        return newest
    return max(newest or mark.head, mark.head)


def present(head: datetime | None, trades: Table, now: datetime) -> datetime | None:
    """The moment that trades reach to: their head, or now where their files do not say; None without any."""
    if head is not None or not trades_spans(trades, trades.metadata.current_snapshot_id):
        return reference(None, head, now)
    return now


def _kept(trades: Table) -> timedelta | None:
    return trades.kept if isinstance(trades, ForeignTrades) else None


def frozen_before(candles: Table, trades: Table, now: datetime) -> datetime | None:
    """The line of trades: what the properties say or, of someone else's, how long they are kept.

    Their table is not ours to write a property to, so the line is counted anew each time, from the head that
    the candles' watermark remembers. A setting that was wrong is put right by setting it right.
    """
    lines = [line for table in (trades, candles) if (line := line_of(table, FROZEN))]
    held, kept = max(lines, default=None), _kept(trades)
    if kept is None:
        return held
    head = present(head_of(candles, trades), trades, now)
    if head is None or head - FIRST < kept:
        return held
    return max(head - kept, held or FIRST)


@dataclass(frozen=True)
class Lines:
    """The lines that hold for a candle table.

    Attributes:
        timeframe: the table.
        frozen: trades before this are gone.
        expired: candles before this are gone.
        setting: what says how long trades are kept.
    """

    timeframe: Timeframe
    frozen: datetime | None
    expired: datetime | None
    setting: str = "K2_RETENTION_TRADES"

    @classmethod
    def of(cls, candles: Table, trades: Table, timeframe: Timeframe) -> "Lines":
        """The lines as two loaded tables say them."""
        setting = "K2_TRADES_KEPT" if isinstance(trades, ForeignTrades) else cls.setting
        frozen = frozen_before(candles, trades, datetime.now(UTC))
        return cls(timeframe, frozen, line_of(candles, EXPIRED), setting)

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

    def behind(self, intervals: Iterable[Interval]) -> list[Interval]:
        """The windows of some intervals that lie behind a line."""
        aligned = self.timeframe.align(intervals)
        return subtract(aligned, self.ahead(aligned))

    def windows_behind(self, intervals: Iterable[Interval]) -> int:
        """How many windows of some intervals lie behind a line."""
        return _windows(self.behind(intervals), self.timeframe)

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
                f"and these candles are the only record left ({self.setting})"
            )
        if reasons:
            raise UsageError(f"{self.timeframe.table} cannot be rebuilt there: {'; '.join(reasons)}")


def _windows(intervals: Iterable[Interval], timeframe: Timeframe) -> int:
    return sum((i.end - i.start) // timeframe.length for i in intervals)


def _named(keys: Sequence[str], most: int = 10) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"partitions {', '.join(keys[:most])}{more}"
