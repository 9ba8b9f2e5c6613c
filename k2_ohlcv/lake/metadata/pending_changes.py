"""What a candle table lacks to be equal to the trades as they are now, from metadata alone.

Joins the watermark of the candles with the changes of the trades since. Which windows to recompute is decided
in `plan`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.errors import MissingTradesError
from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.fingerprint import describe_difference, trades_fingerprint
from k2_ohlcv.lake.history_bounds import FIRST_MOMENT, read_frozen_before
from k2_ohlcv.lake.metadata.snapshot_diff import SnapshotDiff, diff_snapshots, trades_spans
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.watermark import Watermark, explain_missing_watermark


@dataclass(frozen=True)
class PendingChanges:
    """Where a candle table may differ from the trades as they are now.

    Attributes:
        watermark: the watermark of the table; None where it has none or the trades are read in another way
            now.
        current: the current trades snapshot; None where trades have none.
        fingerprint: of the trades as they are read now.
        diff: the trades files in which the two snapshots differ.
        reason: why everything may differ, in words; None where it is known what may.
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
        """Compare two loaded tables; load the candles first."""
        current, read = trades.metadata.current_snapshot_id, trades_fingerprint(trades)
        mark = Watermark.from_table(candles)
        if mark is None:
            return cls(None, current, read, SnapshotDiff(), explain_missing_watermark(candles))
        if other := describe_difference(mark.fingerprint, read):
            return cls(None, current, read, SnapshotDiff(), other)
        if current is None:
            return cls(mark, current, read, SnapshotDiff(), "there are no trades")
        mark = _open_unfrozen(_open_newly_possible(mark, trades), candles, trades)
        found = diff_snapshots(trades, mark.snapshot_id, current)
        return cls(mark, current, read, found, found.reason, mark.is_mirrored(candles))

    @property
    def open_intervals(self) -> tuple[Interval, ...]:
        """Intervals that were open already at the snapshot of the watermark."""
        return self.watermark.open_intervals if self.watermark else ()

    @property
    def bounds(self) -> list[Interval]:
        """Where anything may differ, by the bounds of the files. Only where no `reason` says everywhere."""
        return coalesce([*self.diff.bounds, *self.open_intervals])

    @property
    def is_up_to_date(self) -> bool:
        """Whether the whole table is equal to the trades as they are now."""
        mark = self.watermark
        is_equal = mark is not None and mark.snapshot_id == self.current and mark.is_complete
        return is_equal and self.is_mirrored


def _open_newly_possible(mark: Watermark, trades: Table) -> Watermark:
    """The watermark with those times open that were impossible when it was made, and have come since.

    Only rows of another writer lie so far ahead of the clock, and mostly there are none.
    """
    end = possible_trade_times().end
    is_known = trades.metadata.snapshot_by_id(mark.snapshot_id) is not None
    if mark.until is None or mark.until >= end or not is_known:
        return mark
    come = intersect_all(trades_spans(trades, mark.snapshot_id), [Interval(mark.until, end)])
    return mark.with_open(come) if come else mark


def _open_unfrozen(mark: Watermark, candles: Table, trades: Table) -> Watermark:
    """The watermark with those times open that lay behind the frozen line then, and are ahead of it now.

    Only a setting moves the line back so. Where no trades are, candles stay: they may be the only record.
    """
    now = read_frozen_before(candles, trades, datetime.now(UTC)) or FIRST_MOMENT
    if mark.frozen_before is None or mark.frozen_before <= now:
        return mark
    spans = trades_spans(trades, trades.metadata.current_snapshot_id)
    thawed = intersect_all(spans, [Interval(now, mark.frozen_before)])
    return mark.with_open(thawed) if thawed else mark


def reject_replacing_trades(lake: Lake) -> None:
    """Refuse to create a trades table by the way, while candles say that there was another one.

    Runs of Dagster ask here: files that land while somebody renames the table must wait. A person who means
    it ingests by the command line.

    Raises:
        MissingTradesError: there is no trades table, and candles were made from one.
    """
    trades = lake.trades()
    if isinstance(trades, MissingTable):
        for timeframe in TIMEFRAMES:
            reject_missing_trades(lake.candles(timeframe), trades)


def reject_missing_trades(candles: Table, trades: Table) -> None:
    """Refuse to take missing trades for deleted ones.

    Raises:
        MissingTradesError: the candles were made from trades, and the trades table has never had any.
    """
    if trades.metadata.current_snapshot_id is not None or candles.metadata.current_snapshot_id is None:
        return
    table, source = ".".join(candles.name()), ".".join(trades.name())
    raise MissingTradesError(
        f"{source} is missing or has never had trades, but {table} was made from trades. Nothing was "
        f"changed. Bring the table back under its name {source}, or drop {table} to begin anew"
    )
