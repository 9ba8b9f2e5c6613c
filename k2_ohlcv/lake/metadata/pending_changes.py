"""The pending changes of a candle table: what differs between its watermark and the current trades.

Reads metadata only. Combines the open intervals of the watermark with the changes of the trades since then.
The choice of windows to recompute is in `operations.planning`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.errors import MissingTradesError
from k2_ohlcv.domain.intervals import Interval, coalesce
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.fingerprint import describe_difference, trades_fingerprint
from k2_ohlcv.lake.history_bounds import FIRST_MOMENT, read_frozen_before
from k2_ohlcv.lake.metadata.snapshot_diff import SnapshotDiff, diff_snapshots, trades_spans_within
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.watermark import Watermark, explain_missing_watermark


@dataclass(frozen=True)
class PendingChanges:
    """The time spans in which a candle table may differ from the current trades.

    Attributes:
        watermark: the table's watermark; None without one, or where the trades have another fingerprint.
        current: the current trades snapshot; None where the trades table has none.
        fingerprint: the fingerprint of the current trades.
        diff: the trades files in which the two snapshots differ.
        reason: why all windows may be dirty; None where the changes are known.
        is_mirrored: whether the properties of the candle table repeat the watermark.
    """

    watermark: Watermark | None
    current: int | None
    fingerprint: str
    diff: SnapshotDiff
    reason: str | None
    is_mirrored: bool = True

    @classmethod
    def find(cls, candles: Table, trades: Table) -> "PendingChanges":
        """Compare two loaded tables. The candle table must be loaded first."""
        current, fingerprint = trades.metadata.current_snapshot_id, trades_fingerprint(trades)
        watermark = Watermark.from_table(candles)
        if watermark is None:
            return cls(None, current, fingerprint, SnapshotDiff(), explain_missing_watermark(candles))
        if difference := describe_difference(watermark.fingerprint, fingerprint):
            return cls(None, current, fingerprint, SnapshotDiff(), difference)
        if current is None:
            return cls(watermark, current, fingerprint, SnapshotDiff(), "there are no trades")
        watermark = _open_unfrozen(_open_newly_possible(watermark, trades), candles, trades)
        diff = diff_snapshots(trades, watermark.snapshot_id, current)
        return cls(watermark, current, fingerprint, diff, diff.reason, watermark.is_mirrored(candles))

    @property
    def open_intervals(self) -> tuple[Interval, ...]:
        """The open intervals of the watermark."""
        return self.watermark.open_intervals if self.watermark else ()

    @property
    def bounds(self) -> list[Interval]:
        """The spans that may differ, by the bounds of the files. Valid only where `reason` is None."""
        return coalesce([*self.diff.bounds, *self.open_intervals])

    @property
    def is_up_to_date(self) -> bool:
        """Whether the whole table is equal to the current trades."""
        watermark = self.watermark
        is_equal = watermark is not None and watermark.snapshot_id == self.current and watermark.is_complete
        return is_equal and self.is_mirrored


def _open_newly_possible(watermark: Watermark, trades: Table) -> Watermark:
    """Open the times that were impossible at the watermark and are possible now.

    Only another writer's rows lie in the future. Most tables have no such rows.
    """
    end = possible_trade_times().end
    is_known = trades.metadata.snapshot_by_id(watermark.snapshot_id) is not None
    if watermark.until is None or watermark.until >= end or not is_known:
        return watermark
    newly_possible = trades_spans_within(trades, watermark.snapshot_id, Interval(watermark.until, end))
    return watermark.with_open(newly_possible) if newly_possible else watermark


def _open_unfrozen(watermark: Watermark, candles: Table, trades: Table) -> Watermark:
    """Open the times of trades that were before `frozen_before` at the watermark, and no longer are.

    Only a changed setting moves `frozen_before` back. Candles without trades stay, because they may be the
    only record.
    """
    frozen_before = read_frozen_before(candles, trades, datetime.now(UTC)) or FIRST_MOMENT
    if watermark.frozen_before is None or watermark.frozen_before <= frozen_before:
        return watermark
    unfrozen = trades_spans_within(
        trades, trades.metadata.current_snapshot_id, Interval(frozen_before, watermark.frozen_before)
    )
    return watermark.with_open(unfrozen) if unfrozen else watermark


def reject_replacing_trades(lake: Lake) -> None:
    """Refuse to create a trades table while candles from an earlier trades table exist.

    Dagster runs call this function. Files that land while a user renames the table wait. A user who wants a
    new trades table ingests with the command `ingest`.

    Raises:
        MissingTradesError: the trades table is missing, and candles were computed from one.
    """
    trades = lake.trades()
    if isinstance(trades, MissingTable):
        for timeframe in TIMEFRAMES:
            reject_missing_trades(lake.candles(timeframe), trades)


def reject_missing_trades(candles: Table, trades: Table) -> None:
    """Refuse to treat a missing trades table as deleted trades.

    Raises:
        MissingTradesError: candles were computed from trades, but the trades table never had a snapshot.
    """
    if trades.metadata.current_snapshot_id is not None or candles.metadata.current_snapshot_id is None:
        return
    table, source = ".".join(candles.name()), ".".join(trades.name())
    raise MissingTradesError(
        f"{source} is missing or has never had trades, but {table} was made from trades. Nothing was "
        f"changed. Restore the trades table under its name {source}, or drop {table} to start over"
    )
