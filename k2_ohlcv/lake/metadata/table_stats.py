"""Statistics of the tables for people: rows, partitions, spans, watermarks and lags. Reads metadata only.

Row counts are taken from manifests. They are exact for tables that only this project writes, because such
tables have no row-level delete files.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pyiceberg.manifest import DataFile, DataFileContent, ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.files import LiveFile, file_partition, file_time_span, live_files, table_grain
from k2_ohlcv.lake.metadata.lag import count_snapshots_since, find_stale_since
from k2_ohlcv.lake.metadata.manifests import deleted_file
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges


@dataclass(frozen=True)
class TableStatus:
    """The statistics of a table and its lag.

    Attributes:
        table: the table's name, without its namespace.
        location: the location of its files.
        rows, partitions, files, bytes: the numbers of its live data.
        first, last: the times of the first and last row (window starts for candles); None where empty.
        snapshot: the current snapshot id.
        watermark: the trades snapshot that a candle table is equal to; None for trades.
        trades_head: the time of the newest trade of the watermark; for the trades table, of the newest trade.
        behind: the number of trades snapshots after the watermark; None without a watermark.
        lag: the age of the oldest trades snapshot after the watermark; zero without one. None where a table
            with trades or candles has no watermark.
        open: the intervals that may differ from the trades of the watermark.
        refused: the number of windows that break an invariant.
    """

    table: str
    location: str
    rows: int
    partitions: int
    files: int
    bytes: int
    first: datetime | None
    last: datetime | None
    snapshot: int | None
    watermark: int | None = None
    trades_head: datetime | None = None
    behind: int | None = None
    lag: timedelta | None = None
    open: tuple[Interval, ...] = ()
    refused: int = 0


def trades_status(lake: Lake) -> TableStatus:
    """The statistics of the trades table."""
    status = _table_status(lake.trades())
    return replace(status, trades_head=status.last)


def candles_status(lake: Lake, timeframe: Timeframe) -> TableStatus:
    """The statistics of a candle table and its lag now."""
    candles, trades = lake.candles(timeframe), lake.trades()
    status = _table_status(candles)
    pending = PendingChanges.find(candles, trades)
    behind, lag = _measure_lag(candles, trades, pending, datetime.now(UTC))
    if watermark := pending.watermark:
        status = replace(
            status,
            watermark=watermark.complete,
            trades_head=watermark.complete_latest_trade_at,
            open=watermark.open_intervals,
            refused=len(watermark.refused),
        )
    return replace(status, behind=behind, lag=lag)


def find_data_blocks(lake: Lake, timeframes: Sequence[Timeframe], *, gap: int = 0) -> list[Interval]:
    """The partitions that have trades or candles, joined to blocks of consecutive partitions.

    Args:
        lake: the lake.
        timeframes: the timeframes of the candle tables, all of one grain.
        gap: the maximum number of consecutive empty partitions within a block.
    """
    (grain,) = {timeframe.grain for timeframe in timeframes}
    spans = [f.span for f in _current_files(lake.trades()) if not f.has_only_impossible_times]
    for timeframe in timeframes:
        spans += [f.span for f in _current_files(lake.candles(timeframe))]
    blocks: list[Interval] = []
    for partition in grain.partitions(spans):
        if blocks and grain.ordinal(partition.start) - grain.ordinal(blocks[-1].end) <= gap:
            blocks[-1] = Interval(blocks[-1].start, partition.end)
        else:
            blocks.append(partition)
    return blocks


def count_rows_per_partition(table: Table, grain: Grain | None = None) -> dict[str, int]:
    """Count the rows of each partition of a table, by partition key. Empty partitions are left out.

    Args:
        table: the table.
        grain: a grain other than the table's own, for example months of trades.
    """
    grain = grain or table_grain(table)
    rows: Counter[str] = Counter()
    for live in _current_files(table):
        rows[grain.key(grain.partition(live.span.start))] += live.file.record_count
    return dict(rows)


@dataclass(frozen=True)
class RowsChanged:
    """The rows in the data files of a day that a snapshot of trades added and removed."""

    added: int = 0
    removed: int = 0


#: Maximum span of a file whose days count as changed. The days of a file with a longer span are unknown.
_MAX_DAYS = timedelta(days=366)


def rows_changed_per_day(trades: Table, snapshot: Snapshot) -> dict[Interval | None, RowsChanged]:
    """The rows changed by a snapshot of trades per day, in order of the days.

    All rows of a file with several days count for each of the days. The project's own files have one day. The
    last key is None, for files without bounds or time partition, and for spans of more than a year.
    """
    rows: dict[Interval | None, Counter[ManifestEntryStatus]] = {}
    for manifest in snapshot.manifests(trades.io):
        if manifest.added_snapshot_id != snapshot.snapshot_id:
            continue
        for entry in manifest.fetch_manifest_entry(trades.io, discard_deleted=False):
            if entry.status == ManifestEntryStatus.EXISTING or entry.snapshot_id != snapshot.snapshot_id:
                continue
            is_data = entry.data_file.content == DataFileContent.DATA
            for day in _days_of_file(trades, snapshot, entry.data_file):
                rows.setdefault(day, Counter())[entry.status] += (
                    entry.data_file.record_count if is_data else 0
                )
    added, deleted = ManifestEntryStatus.ADDED, ManifestEntryStatus.DELETED
    days = sorted(day for day in rows if day is not None)
    order = [*days, *([None] if None in rows else [])]
    return {day: RowsChanged(rows[day][added], rows[day][deleted]) for day in order}


def _days_of_file(trades: Table, snapshot: Snapshot, file: DataFile) -> Sequence[Interval | None]:
    """The days of the rows that a file has or deletes; a single None where the days are unknown."""
    span = file_time_span(trades, file)
    if (path := deleted_file(file)) is not None:
        live = live_files(trades, snapshot.snapshot_id)
        span = next((f.span for f in live if f.path == path), span)
    return [None] if span.end - span.start > _MAX_DAYS else Grain.DAY.partitions([span])


def _current_files(table: Table) -> list[LiveFile]:
    return [f for f in live_files(table, _current_snapshot_id(table)) if not f.is_delete]


def _current_snapshot_id(table: Table) -> int | None:
    snapshot = table.current_snapshot()
    return snapshot.snapshot_id if snapshot else None


def _measure_lag(
    candles: Table, trades: Table, pending: PendingChanges, now: datetime
) -> tuple[int | None, timedelta | None]:
    """The lag of a candle table as a number of trades snapshots and as a duration."""
    complete = pending.watermark.complete if pending.watermark else None
    if complete is None:
        has_data = _current_snapshot_id(trades) or _current_snapshot_id(candles)
        return (None, None) if has_data else (0, timedelta(0))
    if pending.is_up_to_date:
        return 0, timedelta(0)
    since = find_stale_since(trades, complete) or _current_since(candles)
    return count_snapshots_since(trades, complete), now - since if since else timedelta(0)


def _current_since(table: Table) -> datetime | None:
    """The time of a table's current snapshot; None without one."""
    snapshot = table.current_snapshot()
    return datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC) if snapshot else None


def _table_status(table: Table) -> TableStatus:
    grain = table_grain(table)
    files = _current_files(table)
    dated = [f for f in files if not f.has_only_impossible_times]
    return TableStatus(
        table=table.name()[-1],
        location=table.location(),
        rows=sum(f.file.record_count for f in files),
        partitions=len({file_partition(f.file, grain) for f in files}),
        files=len(files),
        bytes=sum(f.file.file_size_in_bytes for f in files),
        first=min((f.span.start for f in dated), default=None),
        last=max((f.latest or f.span.last for f in dated), default=None),
        snapshot=_current_snapshot_id(table),
    )
