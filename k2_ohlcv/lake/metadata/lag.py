"""The lag of a candle table behind its trades: whether, since when, and in which partitions.

Reads metadata only, and needs no engine. The exact dirty windows are in `snapshot_diff` and cost more. The
decision to refresh is in `defs.sensors` and `operations`.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.file_search import data_files_within
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges, reject_missing_trades
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.watermark import RefusedWindow


@dataclass(frozen=True)
class TableLag:
    """The lag of a candle table.

    Attributes:
        timeframe: the timeframe of the table.
        watermark: the last trades snapshot that the whole table was equal to; None where none was.
        snapshot: the current trades snapshot; None without trades.
        stale_since: the time of the first trades snapshot after the watermark; None without a lag, or where
            only the candles changed.
        candles_snapshot: the current snapshot of the candle table; None where it has none.
        refused: the windows that break an invariant, as far as the watermark lists them.
    """

    timeframe: Timeframe
    watermark: int | None
    snapshot: int | None
    stale_since: datetime | None
    candles_snapshot: int | None
    refused: tuple[RefusedWindow, ...]
    _pending: PendingChanges = field(repr=False, compare=False)
    _candles: Table = field(repr=False, compare=False)
    _trades: Table = field(repr=False, compare=False)

    @classmethod
    def measure(cls, lake: Lake, timeframe: Timeframe) -> "TableLag":
        """Measure the lag of a candle table now."""
        candles, trades = lake.candles(timeframe), lake.trades()
        reject_missing_trades(candles, trades)
        pending = PendingChanges.find(candles, trades)
        watermark = pending.watermark.complete if pending.watermark else None
        since = None if watermark == pending.current else find_stale_since(trades, watermark)
        refused = pending.watermark.refused if pending.watermark else ()
        current = candles.metadata.current_snapshot_id
        return cls(timeframe, watermark, pending.current, since, current, refused, pending, candles, trades)

    @property
    def is_stale(self) -> bool:
        """Whether trades have changed since the watermark, or may have."""
        return not self._pending.is_up_to_date and not self._is_empty

    @property
    def _is_empty(self) -> bool:
        """Whether there are neither candles nor trades."""
        return self.candles_snapshot is None and not trades_spans(self._trades, self.snapshot)

    def dirty_partitions(self) -> list[Interval]:
        """The partitions that may have dirty windows, in order, by the bounds of the files.

        Where the changes are unknown, these are all partitions that have trades or candles.
        """
        if not self.is_stale:
            return []
        grain = self.timeframe.grain
        if self._pending.reason is None:
            return grain.partitions(self._pending.bounds)
        candle_files = live_files(self._candles, self.candles_snapshot)
        spans = [*trades_spans(self._trades, self.snapshot), *(f.span for f in candle_files)]
        return grain.partitions(spans)

    def estimate_work(self) -> tuple[int, int]:
        """Estimate a refresh: the trades in files of dirty partitions, and the number of the partitions."""
        partitions = self.dirty_partitions()
        files = data_files_within(self._trades, self.snapshot, partitions)
        return sum(f.file.record_count for f in files), len(partitions)


def find_stale_since(trades: Table, watermark: int | None) -> datetime | None:
    """The time at which the next snapshot of trades became current after the watermark's snapshot.

    The snapshot log lists current snapshots with their times, rollbacks included. If the log lacks the
    watermark's snapshot, the first entry counts.
    """
    log = sorted(trades.metadata.snapshot_log, key=lambda entry: entry.timestamp_ms)
    last = max((i for i, entry in enumerate(log) if entry.snapshot_id == watermark), default=-1)
    times = [entry.timestamp_ms for entry in log[last + 1 :]]
    return datetime.fromtimestamp(times[0] / 1000, UTC) if times else None


def count_snapshots_since(trades: Table, watermark: int) -> int:
    """Count the snapshots of trades after the watermark's; all of the history if it lacks that snapshot."""
    count = 0
    snapshot = trades.current_snapshot()
    while snapshot is not None and snapshot.snapshot_id != watermark:
        count += 1
        parent = snapshot.parent_snapshot_id
        snapshot = trades.metadata.snapshot_by_id(parent) if parent else None
    return count
