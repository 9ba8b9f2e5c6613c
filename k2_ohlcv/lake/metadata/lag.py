"""How far a candle table is behind its trades: whether, since when, and in which partitions.

From metadata only: no data file is read, and no engine is needed. What changed exactly is for `changes`, and
costs more; what to do about it is decided elsewhere.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, coalesce
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges, reject_missing_trades
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.watermark import RefusedWindow


@dataclass(frozen=True)
class TableLag:
    """How far a candle table is behind.

    Attributes:
        timeframe: the table.
        watermark: the trades snapshot that all of it is equal to; None where it was never equal to any.
        snapshot: the current trades snapshot; None where there are no trades.
        stale_since: when the first trades snapshot came that the watermark has not reached; None if not
            behind, or where only its own candles changed.
        candles_snapshot: the current snapshot of the table itself; None where it has none.
        refused: windows that break an invariant, as far as the watermark names them.
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
        """How far a table is behind at this moment."""
        candles, trades = lake.candles(timeframe), lake.trades()
        reject_missing_trades(candles, trades)
        work = PendingChanges.find(candles, trades)
        watermark = work.watermark.complete if work.watermark else None
        since = None if watermark == work.current else find_stale_since(trades, watermark)
        refused = work.watermark.refused if work.watermark else ()
        current = candles.metadata.current_snapshot_id
        return cls(timeframe, watermark, work.current, since, current, refused, work, candles, trades)

    @property
    def is_stale(self) -> bool:
        """Whether trades have changed since the watermark, or may have."""
        return not self._pending.is_up_to_date and not self._is_empty

    @property
    def _is_empty(self) -> bool:
        """Whether there is no candle table, and no trade to make one from."""
        return self.candles_snapshot is None and not trades_spans(self._trades, self.snapshot)

    def dirty_partitions(self) -> list[Interval]:
        """The partitions that may differ from the trades, in order, by the bounds of the files.

        All that have trades or candles where it can't be known; none where only files were moved.
        """
        if not self.is_stale:
            return []
        grain = self.timeframe.grain
        if self._pending.reason is None:
            return grain.partitions(self._pending.bounds)
        held = live_files(self._candles, self.candles_snapshot)
        return grain.partitions([*trades_spans(self._trades, self.snapshot), *(f.span for f in held)])

    def estimate_work(self) -> tuple[int, int]:
        """Trades in the files of the dirty partitions, and how many such partitions there are."""
        partitions = self.dirty_partitions()
        bounds = coalesce(partitions)
        files = live_files(self._trades, self.snapshot) if partitions else []
        rows = sum(f.file.record_count for f in files if any(map(f.span.intersect, bounds)))
        return rows, len(partitions)


def find_stale_since(trades: Table, watermark: int | None) -> datetime | None:
    """When trades first left a snapshot: the moment its successor became the current one.

    From the log of what was current when, which knows of rollbacks too. A snapshot that the log does not name
    was left before all that it does name.
    """
    log = sorted(trades.metadata.snapshot_log, key=lambda entry: entry.timestamp_ms)
    left = max((i for i, entry in enumerate(log) if entry.snapshot_id == watermark), default=-1)
    moments = [entry.timestamp_ms for entry in log[left + 1 :]]
    return datetime.fromtimestamp(moments[0] / 1000, UTC) if moments else None


def count_snapshots_since(trades: Table, watermark: int) -> int:
    """How many snapshots the history of trades has since one of them; all of it if that is not in it."""
    count = 0
    snapshot = trades.current_snapshot()
    while snapshot is not None and snapshot.snapshot_id != watermark:
        count += 1
        parent = snapshot.parent_snapshot_id
        snapshot = trades.metadata.snapshot_by_id(parent) if parent else None
    return count
