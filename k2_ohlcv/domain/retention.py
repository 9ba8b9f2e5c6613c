"""Retention decisions: partitions to drop, snapshots to expire, partitions to compact.

Every function here is pure: the decision depends on the arguments alone. Deleting is in `lake.maintenance`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import Grain

#: Default retention of snapshots in days: after a weekend, a fault before the weekend can be inspected.
SNAPSHOT_DAYS = 5
#: An unreferenced file may belong to an unfinished commit. No commit takes longer than this.
ORPHAN_AGE = 3 * DAY
#: A smaller trades file counts as small. A full file of ingestion is more than five times as large.
SMALL_FILE_BYTES = 2 * 1024 * 1024
#: Number of small files in a partition from which compaction is worth its cost.
MIN_SMALL_FILES = 8

_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class RetentionPolicy:
    """How long data and snapshots are kept. None keeps data for ever.

    Attributes:
        candles: retention of candles, by timeframe name.
        trades: retention of trades.
        snapshots: retention of the snapshots of all tables.
    """

    candles: Mapping[str, timedelta | None]
    trades: timedelta | None
    snapshots: timedelta


def retention_anchor(as_of: datetime | None, newest: datetime | None, now: datetime) -> datetime | None:
    """Return the moment from which retention measures age.

    Retention measures age from the newest trade, or from now if that is earlier. Historical data, or the data
    of a stopped feed, is therefore not deleted by accident.

    Args:
        as_of: the requested moment; None for the default.
        newest: the time of the newest trade; None without trades. Data then has no age.
        now: the current time.
    """
    if as_of is not None:
        return as_of
    return min(newest, now) if newest is not None else None


def cutoff(moment: datetime | None, retention: timedelta | None, grain: Grain) -> datetime | None:
    """Return the start of the oldest partition to keep. None means that no partition may be dropped."""
    if moment is None or retention is None or moment - _BEGINNING < retention:
        return None
    return grain.floor(moment - retention)


def partitions_to_drop(partitions: Iterable[Interval], cutoff: datetime | None) -> list[Interval]:
    """Return the partitions that end at or before the cutoff, in order."""
    return sorted(p for p in set(partitions) if cutoff is not None and p.end <= cutoff)


@dataclass(frozen=True)
class CandleCoverage:
    """The time before which a candle table is equal to the trades.

    Attributes:
        table: the name of the candle table.
        until: candles before this time include all trades; None if all candles do.
        reason: why candles from that time on do not include all trades.
    """

    table: str
    until: datetime | None = None
    reason: str = ""


def limit_frozen_before(
    candidate: datetime | None, coverages: Iterable[CandleCoverage]
) -> tuple[datetime | None, tuple[CandleCoverage, ...]]:
    """Limit the drop of trades to trades that every candle table includes.

    Args:
        candidate: the end of the trades that are old enough to drop.
        coverages: the coverage of every candle table.

    Returns:
        The new `frozen_before`, and the coverages that made it earlier than `candidate`.
    """
    lagging = tuple(c for c in coverages if candidate and c.until is not None and c.until < candidate)
    allowed = [Grain.DAY.floor(c.until) for c in lagging if c.until is not None]
    return min(allowed, default=candidate), lagging


@dataclass(frozen=True)
class SnapshotInfo:
    """A snapshot: its id, its sequence number among the commits, and its commit time."""

    snapshot_id: int
    sequence: int
    created_at: datetime


def snapshots_to_expire(
    snapshots: Iterable[SnapshotInfo],
    *,
    keep_newest: int = 0,
    older_than: datetime | None = None,
    protected: Collection[int],
) -> list[int]:
    """Return the ids of the snapshots to expire, oldest first.

    Args:
        snapshots: all snapshots of the table.
        keep_newest: the number of newest snapshots to keep.
        older_than: snapshots from this moment on are kept; None ignores the age.
        protected: ids to keep: snapshots that branches, tags and watermarks refer to.
    """
    ordered = _sort_by_sequence(snapshots)
    return [
        snapshot.snapshot_id
        for snapshot in ordered[: max(0, len(ordered) - keep_newest)]
        if snapshot.snapshot_id not in protected and (older_than is None or snapshot.created_at < older_than)
    ]


def snapshots_since_oldest_needed(snapshots: Iterable[SnapshotInfo], needed: Collection[int]) -> set[int]:
    """Return the ids of the oldest needed snapshot and of all newer snapshots.

    A refresh reads the changes since the snapshot of its watermark.
    """
    ordered = _sort_by_sequence(snapshots)
    positions = (i for i, snapshot in enumerate(ordered) if snapshot.snapshot_id in needed)
    return {snapshot.snapshot_id for snapshot in ordered[next(positions, len(ordered)) :]}


def _sort_by_sequence(snapshots: Iterable[SnapshotInfo]) -> list[SnapshotInfo]:
    return sorted(snapshots, key=lambda snapshot: (snapshot.sequence, snapshot.created_at))


def partitions_to_compact(
    sizes: Mapping[Interval, Iterable[int]], written: Collection[Interval]
) -> list[Interval]:
    """Return the partitions with at least `MIN_SMALL_FILES` small files, in order.

    Args:
        sizes: file sizes in bytes, by partition.
        written: partitions that other runs write now. Compaction would make those runs start over.
    """
    return sorted(
        partition
        for partition, file_sizes in sizes.items()
        if partition not in written and sum(size < SMALL_FILE_BYTES for size in file_sizes) >= MIN_SMALL_FILES
    )
