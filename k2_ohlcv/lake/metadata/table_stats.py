"""What the tables hold, for people: rows, partitions, spans, watermarks, lags. Reads Iceberg metadata only.

Row counts are those of the manifests: exact for the tables that this project writes, which carry no row-level
delete files.
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
    """What a table holds, and how far behind its trades it is.

    Attributes:
        table: the table's name, without its namespace.
        location: where its files are.
        rows, partitions, files, bytes: how much of it is live.
        first, last: the moments of its first and last row (window starts, for candles); None where empty.
        snapshot: its current snapshot id.
        watermark: the trades snapshot that a candle table is equal to; None for trades.
        trades_head: the newest trade that the watermark covers; for trades, the newest there is.
        behind: how many trades snapshots are newer than the watermark's; None where there is no watermark.
        lag: the age of the oldest trades snapshot that the watermark has not reached; zero where there is
            none, None where there is no watermark although there are trades or candles.
        open: intervals that are not equal to the trades of the watermark yet.
        refused: windows in them that break an invariant.
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
    """What the trades table holds."""
    status = _table_status(lake.trades())
    return replace(status, trades_head=status.last)


def candles_status(lake: Lake, timeframe: Timeframe) -> TableStatus:
    """What a candle table holds, and how far behind the trades it is now."""
    candles, trades = lake.candles(timeframe), lake.trades()
    status = _table_status(candles)
    work = PendingChanges.find(candles, trades)
    behind, lag = _measure_lag(candles, trades, work, datetime.now(UTC))
    if mark := work.watermark:
        status = replace(status, watermark=mark.complete, trades_head=mark.complete_latest_trade_at)
        status = replace(status, open=mark.open_intervals, refused=len(mark.refused))
    return replace(status, behind=behind, lag=lag)


def find_data_blocks(lake: Lake, timeframes: Sequence[Timeframe], *, gap: int = 0) -> list[Interval]:
    """The partitions that have trades or candles, as blocks of partitions in a row.

    Args:
        lake: where the tables are.
        timeframes: the candle tables, all of one grain.
        gap: so many empty partitions in a row do not part two blocks.
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
    """How many rows each partition of a table has, by its key; those without any are left out.

    Args:
        table: the table.
        grain: partitions of another grain than the table's own, such as months of trades.
    """
    grain = grain or table_grain(table)
    rows: Counter[str] = Counter()
    for found in _current_files(table):
        rows[grain.key(grain.partition(found.span.start))] += found.file.record_count
    return dict(rows)


@dataclass(frozen=True)
class RowsChanged:
    """What a snapshot of trades did to a day: rows in the data files that it added and removed."""

    added: int = 0
    removed: int = 0


#: A file over more days than a year has does not say which of them a commit touched.
_MAX_DAYS = timedelta(days=366)


def rows_changed_per_day(trades: Table, snapshot: Snapshot) -> dict[Interval | None, RowsChanged]:
    """The days of the files that a snapshot of trades added or removed, in order.

    The rows of a file that spans days count for each of them; ours never do. Files whose days metadata does
    not tell come last, under None: without bounds or a partition of time, or over more than a year.
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
    came, went = ManifestEntryStatus.ADDED, ManifestEntryStatus.DELETED
    told = sorted(day for day in rows if day is not None)
    order = [*told, *([None] if None in rows else [])]
    return {day: RowsChanged(rows[day][came], rows[day][went]) for day in order}


def _days_of_file(trades: Table, snapshot: Snapshot, file: DataFile) -> Sequence[Interval | None]:
    """The days that a file may hold rows of, or delete some of; None where that cannot be told."""
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
    candles: Table, trades: Table, work: PendingChanges, now: datetime
) -> tuple[int | None, timedelta | None]:
    """How many trades snapshots a candle table is behind, and for how long."""
    complete = work.watermark.complete if work.watermark else None
    if complete is None:
        return (
            (None, None)
            if _current_snapshot_id(trades) or _current_snapshot_id(candles)
            else (0, timedelta(0))
        )
    if work.is_up_to_date:
        return 0, timedelta(0)
    since = find_stale_since(trades, complete) or _current_since(candles)
    return count_snapshots_since(trades, complete), now - since if since else timedelta(0)


def _current_since(table: Table) -> datetime | None:
    """When the current snapshot of a table was made: another writer's, or a rollback to one."""
    snapshot = table.current_snapshot()
    return datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC) if snapshot else None


def _table_status(table: Table) -> TableStatus:
    grain = table_grain(table)
    files = _current_files(table)
    known = [f for f in files if not f.has_only_impossible_times]
    return TableStatus(
        table=table.name()[-1],
        location=table.location(),
        rows=sum(f.file.record_count for f in files),
        partitions=len({file_partition(f.file, grain) for f in files}),
        files=len(files),
        bytes=sum(f.file.file_size_in_bytes for f in files),
        first=min((f.span.start for f in known), default=None),
        last=max((f.latest or f.span.last for f in known), default=None),
        snapshot=_current_snapshot_id(table),
    )
