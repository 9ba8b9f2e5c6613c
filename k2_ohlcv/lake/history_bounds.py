"""The bounds of history: trades before `frozen_before` and candles before `expired_before` have expired.

Both bounds are table properties. The commit that drops partitions moves a bound forward
(`maintenance.partition_drops`); only a person moves it back. An external trades table has no such property:
its `frozen_before` is measured from its newest trade. A candle table keeps a copy of the trades' bound. The
trades table may be created again without its property, and the frozen candles are then the only record.
Retention therefore announces a drop of trades in every candle table before it, and copies the bound after it.
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
from k2_ohlcv.lake.metadata.file_search import newest_data_file
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.watermark import Watermark

#: On trades, copied to candle tables: trades before this time have expired, and candles are the only record.
FROZEN_BEFORE = "k2.frozen-before"
#: On a candle table: candles of windows before this time have been dropped.
EXPIRED_BEFORE = "k2.expired-before"
#: On a candle table: retention drops trades before this time from the trades table with this UUID. The drop
#: may have failed, so the bound of that table decides. Once the table is replaced, the announcement counts.
FREEZING_BEFORE, FREEZING_TABLE = "k2.freezing-before", "k2.freezing-table"

FIRST_MOMENT, _LAST_MOMENT = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def read_bound(table: Table, name: str) -> datetime | None:
    """Read the bound from a table property; None where the property is missing. Without a zone it is UTC.

    Raises:
        TableSpecError: the property is no moment.
    """
    text = table.properties.get(name)
    try:
        bound = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise TableSpecError(
            f"the property {name} of {'.'.join(table.name())} is {text!r}, and no moment such as "
            "2024-05-01T00:00:00+00:00. Correct the property"
        ) from None
    return bound.replace(tzinfo=UTC) if bound and bound.tzinfo is None else bound


def bound_property_update(table: Table, name: str, bound: datetime) -> dict[str, str]:
    """The property that moves a bound forward; empty where the bound is already reached."""
    current = read_bound(table, name)
    return {name: bound.isoformat()} if current is None or current < bound else {}


def frozen_before_update(candles: Table, trades: Table) -> dict[str, str]:
    """The property that copies `frozen_before` of the project's trades to a candle table, if it has moved."""
    if isinstance(trades, ExternalTrades):
        return {}
    bounds = [read_bound(trades, FROZEN_BEFORE), _announced_by_replaced(candles, trades)]
    bound = max((b for b in bounds if b is not None), default=None)
    return bound_property_update(candles, FROZEN_BEFORE, bound) if bound else {}


def announcement_update(candles: Table, trades: Table, bound: datetime) -> dict[str, str]:
    """The properties that announce a drop of the trades before a bound; empty where they add nothing."""
    announcement = {FREEZING_BEFORE: bound.isoformat(), FREEZING_TABLE: str(trades.metadata.table_uuid)}
    is_announced = all(candles.properties.get(key) == text for key, text in announcement.items())
    if is_announced or not bound_property_update(candles, FROZEN_BEFORE, bound):
        return {}
    # The new announcement replaces the old one, so the bound of an old one is copied first.
    return {**frozen_before_update(candles, trades), **announcement}


def _announced_by_replaced(candles: Table, trades: Table) -> datetime | None:
    """The bound that retention announced for an earlier trades table, which these trades have replaced."""
    is_replaced = candles.properties.get(FREEZING_TABLE) != str(trades.metadata.table_uuid)
    return read_bound(candles, FREEZING_BEFORE) if is_replaced else None


def newest_trade_time(trades: Table) -> datetime | None:
    """The time of the newest trade, by the bounds of the files.

    Files without bounds are skipped, and so are bounds that are no possible trade time.
    """
    newest = newest_data_file(trades, trades.metadata.current_snapshot_id)
    return newest.latest if newest else None


def latest_trade_at(candles: Table, trades: Table) -> datetime | None:
    """The latest-trade time, for the watermark and for `frozen_before` of an external table.

    For external tables with a retention the latest-trade time never decreases. A rollback by the owner
    therefore cannot move `frozen_before` back. A watermark of another table, or in the future, is ignored.
    """
    newest, watermark = newest_trade_time(trades), Watermark.from_table(candles)
    if (
        _external_retention(trades) is None
        or watermark is None
        or watermark.latest_trade_at is None
        or watermark.latest_trade_at > datetime.now(UTC)
    ):
        return newest
    if trades.metadata.snapshot_by_id(watermark.snapshot_id) is None:
        return newest
    return max(newest or watermark.latest_trade_at, watermark.latest_trade_at)


def latest_time(latest_trade: datetime | None, trades: Table, now: datetime) -> datetime | None:
    """The time up to which there are trades; None without trades.

    Files without bounds give no latest-trade time. The result is then `now`.
    """
    if latest_trade is not None or not trades_spans(trades, trades.metadata.current_snapshot_id):
        return retention_anchor(None, latest_trade, now)
    return now


def _external_retention(trades: Table) -> timedelta | None:
    return trades.retention if isinstance(trades, ExternalTrades) else None


def read_frozen_before(candles: Table, trades: Table, now: datetime) -> datetime | None:
    """The `frozen_before` of the trades: from the properties, or from the retention of an external table.

    The project writes no property to an external table. The bound is therefore computed at each call from the
    latest-trade time. Correcting a wrong retention setting corrects the bound.
    """
    bounds = [read_bound(table, FROZEN_BEFORE) for table in (trades, candles)]
    bounds.append(_announced_by_replaced(candles, trades))
    stored_bound = max((b for b in bounds if b is not None), default=None)
    retention = _external_retention(trades)
    if retention is None:
        return stored_bound
    latest = latest_time(latest_trade_at(candles, trades), trades, now)
    if latest is None or latest - FIRST_MOMENT < retention:
        return stored_bound
    return max(latest - retention, stored_bound or FIRST_MOMENT)


@dataclass(frozen=True)
class HistoryBounds:
    """The bounds of a candle table's history.

    Attributes:
        timeframe: the timeframe of the table.
        frozen_before: trades before this time have expired; None where none have.
        expired_before: candles before this time have been dropped; None where none have.
        setting_name: the setting of the trades' retention.
    """

    timeframe: Timeframe
    frozen_before: datetime | None
    expired_before: datetime | None
    setting_name: str = "K2_RETENTION_TRADES"

    @classmethod
    def from_tables(cls, candles: Table, trades: Table, timeframe: Timeframe) -> "HistoryBounds":
        """Read the bounds from the loaded tables."""
        setting = "K2_TRADES_KEPT" if isinstance(trades, ExternalTrades) else cls.setting_name
        frozen = read_frozen_before(candles, trades, datetime.now(UTC))
        return cls(timeframe, frozen, read_bound(candles, EXPIRED_BEFORE), setting)

    @property
    def start(self) -> datetime | None:
        """The start of the first window after both bounds; None without a bound."""
        bounds = [bound for bound in (self.frozen_before, self.expired_before) if bound is not None]
        if not bounds:
            return None
        floor = self.timeframe.floor(max(bounds))
        return floor if floor == max(bounds) else floor + self.timeframe.length

    def clip(self, intervals: Iterable[Interval]) -> list[Interval]:
        """The parts of intervals after the bounds."""
        start = self.start
        return (
            coalesce(intervals)
            if start is None
            else intersect_all(intervals, [Interval(start, _LAST_MOMENT)])
        )

    def outside(self, intervals: Iterable[Interval]) -> list[Interval]:
        """The windows of intervals that lie before a bound."""
        aligned = self.timeframe.align(intervals)
        return subtract(aligned, self.clip(aligned))

    def count_outside(self, intervals: Iterable[Interval]) -> int:
        """Count the windows of intervals that lie before a bound."""
        return _count_windows(self.outside(intervals), self.timeframe)

    def reject_outside(self, partitions: Sequence[Interval]) -> None:
        """Refuse to rebuild partitions that lie before a bound.

        Raises:
            UsageError: whole partitions lie before a bound; the message names them.
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
                f"{self.expired_before:%Y-%m-%d}: retention would drop them again after a rebuild "
                f"(K2_RETENTION_{self.timeframe.name.upper()})"
            )
        if frozen:
            reasons.append(
                f"{_partition_list(frozen)} are frozen: their trades before "
                f"{self.frozen_before:%Y-%m-%d} have been expired, "
                f"and these candles are the only record left ({self.setting_name})"
            )
        if reasons:
            raise UsageError(
                f"these partitions of {self.timeframe.table} cannot be rebuilt: {'; '.join(reasons)}"
            )


def _count_windows(intervals: Iterable[Interval], timeframe: Timeframe) -> int:
    return sum((i.end - i.start) // timeframe.length for i in intervals)


def _partition_list(keys: Sequence[str], most: int = 10) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"partitions {', '.join(keys[:most])}{more}"
