"""Drops whole partitions of a table in one commit that touches metadata alone.

Which partitions go is decided in `domain.retention`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.retention import partitions_to_drop
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY, TableCommit, commit_change
from k2_ohlcv.lake.history_bounds import bound_property_update
from k2_ohlcv.lake.metadata.files import file_partition, live_files, table_grain
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.lake.watermark import carry_over_summary


@dataclass(frozen=True)
class PartitionsToDrop:
    """What of a table has ended by a cutoff: whole partitions, and the data files that are in them."""

    cutoff: datetime | None = None
    partitions: tuple[Interval, ...] = ()
    files: tuple[DataFile, ...] = ()

    @property
    def bound(self) -> datetime:
        """Where history begins then: the end of the last partition that goes, never beyond the cutoff."""
        return self.partitions[-1].end

    @property
    def rows(self) -> int:
        """Rows in them."""
        return sum(file.record_count for file in self.files)

    @property
    def bytes(self) -> int:
        """Bytes of the files."""
        return sum(file.file_size_in_bytes for file in self.files)

    @classmethod
    def find(cls, table: Table, cutoff: datetime | None) -> "PartitionsToDrop":
        """What goes from a table as it was loaded."""
        grain = table_grain(table)
        files = live_files(table, table.metadata.current_snapshot_id)
        data = [(file_partition(f.file, grain), f.file) for f in files if not f.is_delete]
        partitions = partitions_to_drop((partition for partition, _ in data), cutoff)
        gone = set(partitions)
        return cls(cutoff, tuple(partitions), tuple(file for partition, file in data if partition in gone))


def drop_partitions(
    load: Callable[[], Table],
    find_partitions: Callable[[Table], PartitionsToDrop],
    bound_property: str,
    protected: Callable[[Table], Collection[int]] = lambda _: (),
    properties: Callable[[Table], Mapping[str, str]] = lambda _: {},
) -> PartitionsToDrop:
    """Drop whole partitions from a table and move its line, in one commit that touches metadata alone.

    Args:
        load: loads the table, as the catalog has it now.
        find_partitions: what goes from it; asked again where another commit came between.
        bound_property: the property that holds the line.
        protected: snapshots that the commit may not expire.
        properties: further table properties that the commit sets.

    Returns:
        What went.

    Raises:
        CommitConflictError: others committed first, each time.
    """

    def attempt(table: Table) -> PartitionsToDrop:
        going = find_partitions(table)
        if not going.partitions:
            return going
        change = TableCommit(
            removed_files=going.files,
            properties={**bound_property_update(table, bound_property, going.bound), **properties(table)},
            summary={RETENTION_SUMMARY_KEY: going.bound.isoformat(), **carry_over_summary(table)},
            protected=frozenset(protected(table)),
            operation=Operation.DELETE,
        )
        commit_change(table, change)
        return going

    return retry_conflicts(load, attempt, purpose="of retention")
