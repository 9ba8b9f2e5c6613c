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

from k2_ohlcv.domain.errors import TableSpecError, UsageError
from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all, subtract
from k2_ohlcv.domain.retention import retention_anchor
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.watermark import Watermark

#: On trades, and remembered on candle tables: candles of windows before this are the only record left.
FROZEN_BEFORE = "k2.frozen-before"
#: On a candle table: candles of windows before this have been dropped.
EXPIRED_BEFORE = "k2.expired-before"

FIRST_MOMENT, _LAST_MOMENT = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def read_bound(table: Table, name: str) -> datetime | None:
    """The line that a table's property holds, or None. A moment without a zone is UTC.

    Raises:
        ContractError: the property holds no moment.
    """
    text = table.properties.get(name)
    try:
        line = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise TableSpecError(
            f"the property {name} of {'.'.join(table.name())} is {text!r}, and no moment such as "
            "2024-05-01T00:00:00+00:00. Correct it"
        ) from None
    return line.replace(tzinfo=UTC) if line and line.tzinfo is None else line


def bound_property_update(table: Table, name: str, line: datetime) -> dict[str, str]:
    """The property that moves a line, or nothing where it is there already: lines never move back."""
    current = read_bound(table, name)
    return {name: line.isoformat()} if current is None or current < line else {}


def frozen_before_update(candles: Table, trades: Table) -> dict[str, str]:
    """The property by which a candle table remembers the frozen line of our own trades, if it is to move."""
    line = None if isinstance(trades, ExternalTrades) else read_bound(trades, FROZEN_BEFORE)
    return bound_property_update(candles, FROZEN_BEFORE, line) if line else {}


def newest_trade_time(trades: Table) -> datetime | None:
    """The newest trade, by the bounds of the files.

    Files of which nothing is known say nothing, nor does a bound beyond the times that a trade can have.
    """
    files = live_files(trades, trades.metadata.current_snapshot_id)
    return max((f.latest for f in files if not f.is_delete and f.latest is not None), default=None)


def latest_trade_at(candles: Table, trades: Table) -> datetime | None:
    """The newest trade: what a watermark covers, and what the line of someone else's trades is counted from.

    Where there is such a line it does not go back, and so neither does the line, although the owner may roll
    the table back. A head of another table, or one that is still to come, says nothing.
    """
    newest, mark = newest_trade_time(trades), Watermark.from_table(candles)
    if (
        _external_retention(trades) is None
        or mark is None
        or mark.latest_trade_at is None
        or mark.latest_trade_at > datetime.now(UTC)
    ):
        return newest
    if trades.metadata.snapshot_by_id(mark.snapshot_id) is None:
        return newest
    return max(newest or mark.latest_trade_at, mark.latest_trade_at)


def latest_time(head: datetime | None, trades: Table, now: datetime) -> datetime | None:
    """The moment that trades reach to: their head, or now where their files do not say; None without any."""
    if head is not None or not trades_spans(trades, trades.metadata.current_snapshot_id):
        return retention_anchor(None, head, now)
    return now


def _external_retention(trades: Table) -> timedelta | None:
    return trades.retention if isinstance(trades, ExternalTrades) else None


def read_frozen_before(candles: Table, trades: Table, now: datetime) -> datetime | None:
    """The line of trades: what the properties say or, of someone else's, how long they are kept.

    Their table is not ours to write a property to, so the line is counted anew each time, from the head that
    the candles' watermark remembers. A setting that was wrong is put right by setting it right.
    """
    lines = [line for table in (trades, candles) if (line := read_bound(table, FROZEN_BEFORE))]
    held, kept = max(lines, default=None), _external_retention(trades)
    if kept is None:
        return held
    head = latest_time(latest_trade_at(candles, trades), trades, now)
    if head is None or head - FIRST_MOMENT < kept:
        return held
    return max(head - kept, held or FIRST_MOMENT)


@dataclass(frozen=True)
class HistoryBounds:
    """The lines that hold for a candle table.

    Attributes:
        timeframe: the table.
        frozen_before: trades before this are gone.
        expired_before: candles before this are gone.
        setting_name: what says how long trades are kept.
    """

    timeframe: Timeframe
    frozen_before: datetime | None
    expired_before: datetime | None
    setting_name: str = "K2_RETENTION_TRADES"

    @classmethod
    def from_tables(cls, candles: Table, trades: Table, timeframe: Timeframe) -> "HistoryBounds":
        """The lines as two loaded tables say them."""
        setting = "K2_TRADES_KEPT" if isinstance(trades, ExternalTrades) else cls.setting_name
        frozen = read_frozen_before(candles, trades, datetime.now(UTC))
        return cls(timeframe, frozen, read_bound(candles, EXPIRED_BEFORE), setting)

    @property
    def start(self) -> datetime | None:
        """The start of the first window that is ahead of both lines; None where there is no line."""
        lines = [line for line in (self.frozen_before, self.expired_before) if line is not None]
        if not lines:
            return None
        floor = self.timeframe.floor(max(lines))
        return floor if floor == max(lines) else floor + self.timeframe.length

    def clip(self, intervals: Iterable[Interval]) -> list[Interval]:
        """What of some intervals lies ahead of the lines."""
        start = self.start
        return (
            coalesce(intervals)
            if start is None
            else intersect_all(intervals, [Interval(start, _LAST_MOMENT)])
        )

    def outside(self, intervals: Iterable[Interval]) -> list[Interval]:
        """The windows of some intervals that lie behind a line."""
        aligned = self.timeframe.align(intervals)
        return subtract(aligned, self.clip(aligned))

    def count_outside(self, intervals: Iterable[Interval]) -> int:
        """How many windows of some intervals lie behind a line."""
        return _count_windows(self.outside(intervals), self.timeframe)

    def reject_outside(self, partitions: Sequence[Interval]) -> None:
        """Hold partitions that somebody asked to rebuild to the lines.

        Raises:
            UsageError: some lie behind a line as a whole; the message names them.
        """
        key = self.timeframe.grain.key
        dropped = [key(p) for p in partitions if self.expired_before and p.end <= self.expired_before]
        frozen = [
            key(p)
            for p in partitions
            if self.frozen_before and p.end <= self.frozen_before and key(p) not in dropped
        ]
        reasons = []
        if dropped:
            reasons.append(
                f"{_partition_list(dropped)} are past retention, which ended before "
                f"{self.expired_before:%Y-%m-%d}: rebuilt, "
                f"they would be dropped again (K2_RETENTION_{self.timeframe.name.upper()})"
            )
        if frozen:
            reasons.append(
                f"{_partition_list(frozen)} are frozen: their trades before "
                f"{self.frozen_before:%Y-%m-%d} have been expired, "
                f"and these candles are the only record left ({self.setting_name})"
            )
        if reasons:
            raise UsageError(f"{self.timeframe.table} cannot be rebuilt there: {'; '.join(reasons)}")


def _count_windows(intervals: Iterable[Interval], timeframe: Timeframe) -> int:
    return sum((i.end - i.start) // timeframe.length for i in intervals)


def _partition_list(keys: Sequence[str], most: int = 10) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"partitions {', '.join(keys[:most])}{more}"
