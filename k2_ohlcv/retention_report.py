"""What retention would do or did, in numbers. Made by `retention`, shown by the graph and the command."""

from dataclasses import dataclass, field
from datetime import datetime

from k2_ohlcv.lake.compaction import Compacted


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
        bytes_freed: by how much less the table takes now: those files, less what retention itself wrote.
            So it is a little under zero where files still serve kept snapshots and only the commit is new.
        snapshots_expired: snapshots that expired.
        blocked: why no more goes although it is past its time, in words.
        compacted: what compaction did.
        files_per_partition: the most files that a partition has, and the mean.
    """

    table: str
    cutoff: datetime | None = None
    partitions: tuple[str, ...] = ()
    rows: int = 0
    bytes: int = 0
    files_removed: int = 0
    bytes_freed: int = 0
    snapshots_expired: int = 0
    blocked: tuple[str, ...] = ()
    compacted: Compacted = field(default_factory=Compacted)
    files_per_partition: tuple[int, float] = (0, 0.0)

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
            "bytes_freed": self.bytes_freed,
            "snapshots_expired": self.snapshots_expired,
            "blocked": list(self.blocked),
            "compacted": {"files": self.compacted.before, "into": self.compacted.after},
            "files_per_partition": {"most": most, "mean": round(mean, 2)},
        }


@dataclass(frozen=True)
class RetentionReport:
    """What retention would do, or did."""

    applied: bool
    tables: tuple[TableReport, ...]

    def as_json(self) -> dict[str, object]:
        """The report as one JSON object."""
        return {"applied": self.applied, "tables": [table.as_json() for table in self.tables]}
