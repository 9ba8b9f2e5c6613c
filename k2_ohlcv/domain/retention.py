"""What may go, decided and nothing more: partitions, snapshots, files to compact. Carried out in `lake`.

Every function here is pure: the same values give the same decision, whatever the tables and clocks do next.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import Grain

#: Snapshots are kept for so many days: long enough to look into what went wrong before a weekend.
SNAPSHOT_DAYS = 5
#: Files that nothing knows may belong to a commit that is being made; none takes so long.
ORPHAN_AGE = 3 * DAY
#: A trades file below this is small: less than a fifth of one that ingestion fills.
SMALL_FILE_BYTES = 2 * 1024 * 1024
#: So many small files in a partition are worth rewriting.
MIN_SMALL_FILES = 8

_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class RetentionPolicy:
    """How long what is kept; None is for ever.

    Attributes:
        candles: by the name of the timeframe.
        trades: the trades.
        snapshots: snapshots of all tables.
    """

    candles: Mapping[str, timedelta | None]
    trades: timedelta | None
    snapshots: timedelta


def retention_anchor(as_of: datetime | None, newest: datetime | None, now: datetime) -> datetime | None:
    """The moment that ages are measured from.

    A feed that died, or a lake of historical data, is not eaten from behind: its newest trade holds the time.

    Args:
        as_of: the moment that was asked for, if any.
        newest: the newest trade; None where there are no trades, and then nothing has an age.
        now: the clock.
    """
    if as_of is not None:
        return as_of
    return min(newest, now) if newest is not None else None


def cutoff(moment: datetime | None, kept: timedelta | None, grain: Grain) -> datetime | None:
    """Where what is kept begins: the start of the oldest partition that stays. None where nothing may go."""
    if moment is None or kept is None or moment - _BEGINNING < kept:
        return None
    return grain.floor(moment - kept)


def partitions_to_drop(partitions: Iterable[Interval], line: datetime | None) -> list[Interval]:
    """The partitions that go: those that have ended by the line, whole ones only, in order."""
    return sorted(p for p in set(partitions) if line is not None and p.end <= line)


@dataclass(frozen=True)
class CandleCoverage:
    """Up to where a candle table has taken in the trades.

    Attributes:
        table: the candle table.
        until: trades before it are in the candles as they are; None where that is so for all trades.
        reason: why not further.
    """

    table: str
    until: datetime | None = None
    reason: str = ""


def limit_frozen_before(
    line: datetime | None, coverages: Iterable[CandleCoverage]
) -> tuple[datetime | None, tuple[CandleCoverage, ...]]:
    """How far trades may be expired, and the candle tables that hold the line back.

    Args:
        line: what the age of the trades allows.
        coverages: of every candle table.
    """
    behind = tuple(c for c in coverages if line and c.until is not None and c.until < line)
    allowed = [Grain.DAY.floor(c.until) for c in behind if c.until is not None]
    return min(allowed, default=line), behind


@dataclass(frozen=True)
class SnapshotInfo:
    """A snapshot: its id, its place in the order of commits, and when it was made."""

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
    """The ids of the snapshots that expire, oldest first.

    Args:
        snapshots: all that the table has.
        keep_newest: so many of the newest stay.
        older_than: snapshots made at this moment or later stay; None where age does not count.
        protected: ids that stay: those that branches and tags name, and those that watermarks need.
    """
    ordered = _sort_by_sequence(snapshots)
    return [
        v.snapshot_id
        for v in ordered[: max(0, len(ordered) - keep_newest)]
        if v.snapshot_id not in protected and (older_than is None or v.created_at < older_than)
    ]


def snapshots_since_oldest_needed(snapshots: Iterable[SnapshotInfo], needed: Collection[int]) -> set[int]:
    """The ids of the oldest snapshot that is needed, and of all after it.

    A refresh reads what changed since the snapshot of its watermark.
    """
    ordered = _sort_by_sequence(snapshots)
    first = next((i for i, v in enumerate(ordered) if v.snapshot_id in needed), len(ordered))
    return {v.snapshot_id for v in ordered[first:]}


def _sort_by_sequence(snapshots: Iterable[SnapshotInfo]) -> list[SnapshotInfo]:
    return sorted(snapshots, key=lambda v: (v.sequence, v.created_at))


def partitions_to_compact(
    sizes: Mapping[Interval, Iterable[int]], written: Collection[Interval]
) -> list[Interval]:
    """The partitions that have so many small files that they are worth rewriting, in order.

    Args:
        sizes: of each partition's files, in bytes.
        written: the partitions that are being written: rewriting one would only make its writers start over.
    """
    return sorted(
        partition
        for partition, found in sizes.items()
        if partition not in written and sum(size < SMALL_FILE_BYTES for size in found) >= MIN_SMALL_FILES
    )
