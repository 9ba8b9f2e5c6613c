"""Reports of retention. `retention` builds the reports; Dagster runs and the command show them."""

from dataclasses import dataclass, field
from datetime import datetime

from k2_ohlcv.lake.maintenance.compaction import CompactionResult
from k2_ohlcv.lake.newest_trade import NewestTrade


@dataclass(frozen=True)
class HeldBack:
    """Partitions that a scheduled run does not drop: too many, after a jump of the data clock.

    Attributes:
        partitions: the keys of the partitions.
        rows: the number of rows in the partitions.
        bytes: the size of their data files.
        reason: the cause and the remedy, for people.
    """

    partitions: tuple[str, ...]
    rows: int
    bytes: int
    reason: str

    def as_json(self) -> dict[str, object]:
        """Return one JSON object, with the number of partitions and the first and last key."""
        return {
            "partitions": len(self.partitions),
            "first": self.partitions[0],
            "last": self.partitions[-1],
            "rows": self.rows,
            "bytes": self.bytes,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class TableReport:
    """Retention of one table, applied or planned.

    Attributes:
        table: the name of the table.
        cutoff: the start of the oldest partition to keep; None if no partition may be dropped.
        partitions: the keys of the dropped partitions.
        rows: the number of rows in the dropped partitions.
        bytes: the size of their data files.
        files_removed: the number of deleted files: files of expired snapshots alone, and orphan files.
        files_refused: the number of files that the store did not delete. The next run tries again.
        bytes_freed: the decrease of the size of the table's folder. The value is negative if the commit adds
            more than the run deletes. Files of other writers count too.
        snapshots_expired: the number of expired snapshots.
        blocked: why old partitions are kept, for people.
        compacted: the result of compaction.
        files_per_partition: the maximum and the mean number of files in a partition.
        held_back: partitions that a scheduled run does not drop. A dry run, or a run that a person applies,
            also has these partitions in `partitions`.
    """

    table: str
    cutoff: datetime | None = None
    partitions: tuple[str, ...] = ()
    rows: int = 0
    bytes: int = 0
    files_removed: int = 0
    files_refused: int = 0
    bytes_freed: int = 0
    snapshots_expired: int = 0
    blocked: tuple[str, ...] = ()
    compacted: CompactionResult = field(default_factory=CompactionResult)
    files_per_partition: tuple[int, float] = (0, 0.0)
    held_back: HeldBack | None = None

    def as_json(self) -> dict[str, object]:
        """Return the report as one JSON object."""
        most, mean = self.files_per_partition
        return {
            "table": self.table,
            "cutoff": self.cutoff.isoformat() if self.cutoff else None,
            "partitions": list(self.partitions),
            "rows": self.rows,
            "bytes": self.bytes,
            "files_removed": self.files_removed,
            "files_refused": self.files_refused,
            "bytes_freed": self.bytes_freed,
            "snapshots_expired": self.snapshots_expired,
            "blocked": list(self.blocked),
            "compacted": {"files": self.compacted.before, "into": self.compacted.after},
            "files_per_partition": {"most": most, "mean": round(mean, 2)},
            "held": self.held_back.as_json() if self.held_back else None,
        }


@dataclass(frozen=True)
class RetentionReport:
    """Retention of all tables, applied or planned.

    Attributes:
        applied: whether the run changed the tables.
        tables: the report of each table.
        aged_from: the moment from which ages are measured; None without trades.
        newest: the trade that set this moment; None if a person chose the moment.
    """

    applied: bool
    tables: tuple[TableReport, ...]
    aged_from: datetime | None = None
    newest: NewestTrade | None = None

    def as_json(self) -> dict[str, object]:
        """Return the report as one JSON object."""
        return {
            "applied": self.applied,
            "aged_from": self.aged_from.isoformat() if self.aged_from else None,
            "newest_trade": self.newest.as_json() if self.newest else None,
            "tables": [table.as_json() for table in self.tables],
        }
