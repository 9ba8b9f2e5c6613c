"""What retention would do or did, in numbers. Made by `retention`, shown by the graph and the command."""

from dataclasses import dataclass, field
from datetime import datetime

from k2_ohlcv.lake.maintenance.compaction import CompactionResult
from k2_ohlcv.lake.newest_trade import NewestTrade


@dataclass(frozen=True)
class HeldBack:
    """What a scheduled run does not drop: too much at once, where the data's clock jumped.

    Attributes:
        partitions: the keys of the partitions.
        rows: rows in them.
        bytes: bytes of their data files.
        reason: why they are held, and what to do, in words.
    """

    partitions: tuple[str, ...]
    rows: int
    bytes: int
    reason: str

    def as_json(self) -> dict[str, object]:
        """What is held as one JSON object; of the partitions their number and both ends."""
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
    """What goes, or went, from one table.

    Attributes:
        table: its name.
        cutoff: where what is kept begins; None where nothing may go.
        partitions: the keys of the partitions that go.
        rows: rows in them.
        bytes: bytes of their data files.
        files_removed: files that were removed: data, manifests and lists that only expired snapshots reached,
            and files that nothing knew.
        files_refused: files that the store refused to remove; the next run tries them again.
        bytes_freed: by how much less the table's folder takes than before. It is a little under zero where
            files still serve kept snapshots and only the commit is new. What others write meanwhile counts.
        snapshots_expired: snapshots that expired.
        blocked: why no more goes although it is past its time, in words.
        compacted: what compaction did.
        files_per_partition: the most files that a partition has, and the mean.
        held_back: what a scheduled run does not drop. In a dry run, and where it is applied knowingly, these
            partitions are among those that go.
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
        """The report as one JSON object."""
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
    """What retention would do, or did.

    Attributes:
        applied: whether it did.
        tables: table by table.
        aged_from: the moment that ages are measured from; None where there are no trades.
        newest: the trade that set that moment; None where the moment was asked for.
    """

    applied: bool
    tables: tuple[TableReport, ...]
    aged_from: datetime | None = None
    newest: NewestTrade | None = None

    def as_json(self) -> dict[str, object]:
        """The report as one JSON object."""
        return {
            "applied": self.applied,
            "aged_from": self.aged_from.isoformat() if self.aged_from else None,
            "newest_trade": self.newest.as_json() if self.newest else None,
            "tables": [table.as_json() for table in self.tables],
        }
