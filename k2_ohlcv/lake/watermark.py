"""The watermark of a candle table: which trades snapshot it is equal to.

Two table properties, moved only by the commit that makes the table equal to that snapshot.
"""

from dataclasses import dataclass
from datetime import datetime

from pyiceberg.table import Table

SNAPSHOT = "k2.trades-snapshot-id"
HEAD = "k2.trades-head"


@dataclass(frozen=True)
class Watermark:
    """The trades snapshot that a candle table is equal to, and the newest trade in it (None where empty)."""

    snapshot_id: int
    head: datetime | None

    @classmethod
    def of(cls, table: Table) -> "Watermark | None":
        """The watermark of a candle table, or None where it was never made equal to any snapshot."""
        snapshot, head = table.properties.get(SNAPSHOT), table.properties.get(HEAD)
        if snapshot is None:
            return None
        return cls(int(snapshot), datetime.fromisoformat(head) if head else None)

    def properties(self) -> dict[str, str]:
        """The table properties that say this."""
        return {SNAPSHOT: str(self.snapshot_id), HEAD: self.head.isoformat() if self.head else ""}
