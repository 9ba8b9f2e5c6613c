"""Retention of one table: find partitions to drop, drop them, compact, expire snapshots, remove orphan files.

The class here has the steps that all tables share. The kinds of tables, and the order of a run, are in
`retention`. Commits and deletions are in `lake.maintenance`.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import UTC, datetime

import structlog
from pyiceberg.table import Table

from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance.compaction import CompactionResult
from k2_ohlcv.lake.maintenance.orphan_files import remove_orphans
from k2_ohlcv.lake.maintenance.partition_drops import PartitionsToDrop, drop_partitions
from k2_ohlcv.lake.maintenance.snapshot_expiry import expire_snapshots
from k2_ohlcv.lake.maintenance.table_files import TableFiles
from k2_ohlcv.lake.metadata.files import file_sizes
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.operations.drop_limit import DropLimit
from k2_ohlcv.operations.retention_report import HeldBack, TableReport

_log = structlog.get_logger(__name__)


class TableRetention(ABC):
    """Retention of one table.

    Attributes:
        grain: the length of the partitions.
        bound_property: the table property that a drop advances; None if partitions are never dropped.
        limit: the limit on the partitions to drop in one run.
    """

    grain: Grain
    bound_property: str | None = None
    limit = DropLimit()

    def __init__(self, lake: Lake, name: str) -> None:
        self.lake = lake
        self.name = name
        self._held_back: HeldBack | None = None
        self._usage_before: int | None = None

    @abstractmethod
    def load(self) -> Table:
        """Load the current table."""

    def find_partitions(self, _: Table) -> PartitionsToDrop:
        """Find the partitions to drop from a loaded table."""
        return PartitionsToDrop()

    def protected_snapshots(self) -> set[int]:
        """Return the snapshots that watermarks refer to."""
        return set()

    def commit_protected_snapshots(self, _: Table) -> set[int]:
        """Return the snapshots that a commit must not expire as a side effect."""
        return set()

    def blocked_reasons(self) -> tuple[str, ...]:
        """Explain why old partitions were kept by the last call of `find_partitions`."""
        return ()

    def announce_bound(self, _: Table, __: datetime) -> None:  # noqa: B027 - only for the trades table
        """Announce the coming bound of the loaded table to other tables."""

    def copy_bound(self) -> None:  # noqa: B027 - only the trades table copies its bound
        """Copy the bound of this table to other tables."""

    def compact(self, _: datetime) -> CompactionResult:
        """Merge small files."""
        return CompactionResult()

    def _find_within_limit(self, table: Table) -> PartitionsToDrop:
        """Find the partitions to drop: none if the limit is enforced and exceeded."""
        drop = self.find_partitions(table)
        self._held_back = self.limit.find_held_back(table, self.grain, drop)
        is_held_back = self._held_back is not None and self.limit.is_enforced
        return replace(drop, partitions=(), files=()) if is_held_back else drop

    def preview(self) -> TableReport:
        """Report the partitions to drop. Changes nothing."""
        if self.is_missing():
            return TableReport(self.name)
        table = self.load()
        drop = self.find_partitions(table)
        self._held_back = self.limit.find_held_back(table, self.grain, drop)
        return self._report(drop)

    def is_missing(self) -> bool:
        """Whether the catalog does not have the table. Retention then skips the table."""
        return isinstance(self.load(), MissingTable)

    def apply(self, snapshots_before: datetime, now: datetime) -> TableReport:
        """Drop old partitions, compact, expire snapshots, and remove orphan files.

        Args:
            snapshots_before: snapshots made before this moment expire.
            now: the current time.
        """
        if self.is_missing():
            return TableReport(self.name)
        self._usage_before = TableFiles(self.load()).usage()
        drop = PartitionsToDrop()
        if self.bound_property is not None:
            drop = drop_partitions(
                self.load,
                self._find_within_limit,
                self.bound_property,
                self.commit_protected_snapshots,
                self.limit.properties,
                announce=self.announce_bound,
            )
            if not drop.partitions and self._held_back is None:
                self.limit.store_clocks(self.load)
            self.copy_bound()
        compacted = self.compact(now)
        expiry = expire_snapshots(self.load, snapshots_before, self.protected_snapshots)
        removed = expiry.removed + remove_orphans(self.load, datetime.now(UTC))
        return replace(
            self._report(drop),
            files_removed=removed.files,
            files_refused=removed.refused,
            snapshots_expired=expiry.snapshots,
            compacted=compacted,
        )

    def measure(self, report: TableReport) -> TableReport:
        """Add the freed bytes of the table's folder to a report, and log the report."""
        if self._usage_before is not None:
            report = replace(report, bytes_freed=self._usage_before - TableFiles(self.load()).usage())
        _log.info("retention", **{**report.as_json(), "partitions": len(report.partitions)})
        return report

    def _report(self, drop: PartitionsToDrop) -> TableReport:
        return TableReport(
            table=self.name,
            cutoff=drop.cutoff,
            partitions=tuple(self.grain.key(p) for p in drop.partitions),
            rows=drop.rows,
            bytes=drop.bytes,
            blocked=self.blocked_reasons(),
            files_per_partition=self._files_per_partition(),
            held_back=self._held_back,
        )

    def _files_per_partition(self) -> tuple[int, float]:
        """Return the maximum and the mean number of files in a partition."""
        counts = [len(sizes) for sizes in file_sizes(self.load()).values()]
        return max(counts, default=0), sum(counts) / len(counts) if counts else 0.0
