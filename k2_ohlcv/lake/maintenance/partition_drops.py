"""Drops whole partitions in one commit of metadata alone, and freezes the candles of dropped trades.

The choice of partitions is in `domain.retention`. The files are removed after `snapshot_expiry`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.retention import partitions_to_drop
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY, TableCommit, commit_change, commit_with_retry
from k2_ohlcv.lake.history_bounds import (
    FROZEN_BEFORE,
    announcement_update,
    bound_property_update,
    read_bound,
)
from k2_ohlcv.lake.metadata.files import file_partition, live_files, table_grain
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.lake.watermark import carry_over_summary


@dataclass(frozen=True)
class PartitionsToDrop:
    """The partitions of a table that end before a cutoff, with their data files."""

    cutoff: datetime | None = None
    partitions: tuple[Interval, ...] = ()
    files: tuple[DataFile, ...] = ()

    @property
    def bound(self) -> datetime:
        """The start of the remaining history: the end of the last partition, never after the cutoff."""
        return self.partitions[-1].end

    @property
    def rows(self) -> int:
        """The number of rows in the partitions."""
        return sum(file.record_count for file in self.files)

    @property
    def bytes(self) -> int:
        """The bytes of the data files."""
        return sum(file.file_size_in_bytes for file in self.files)

    @classmethod
    def find(cls, table: Table, cutoff: datetime | None) -> "PartitionsToDrop":
        """Find the partitions of the loaded table that end before the cutoff."""
        grain = table_grain(table)
        files = live_files(table, table.metadata.current_snapshot_id)
        data = [(file_partition(f.file, grain), f.file) for f in files if not f.is_delete]
        partitions = partitions_to_drop((partition for partition, _ in data), cutoff)
        dropped = set(partitions)
        return cls(cutoff, tuple(partitions), tuple(file for partition, file in data if partition in dropped))


def drop_partitions(
    load: Callable[[], Table],
    find_partitions: Callable[[Table], PartitionsToDrop],
    bound_property: str,
    protected: Callable[[Table], Collection[int]] = lambda _: (),
    properties: Callable[[Table], Mapping[str, str]] = lambda _: {},
    *,
    announce: Callable[[Table, datetime], None] = lambda *_: None,
) -> PartitionsToDrop:
    """Drop whole partitions from a table and move its bound, in one commit of metadata alone.

    Args:
        load: loads the current version of the table from the catalog.
        find_partitions: finds the partitions to drop from a table; called again after a conflict.
        bound_property: the property of the bound (`history_bounds`).
        protected: snapshots that the commit may not expire.
        properties: further table properties that the commit sets.
        announce: announces the new bound of the table to other tables; called before each attempt to commit.

    Returns:
        The dropped partitions.

    Raises:
        CommitConflictError: other writers won every attempt.
    """

    def attempt(table: Table) -> PartitionsToDrop:
        dropped = find_partitions(table)
        if not dropped.partitions:
            return dropped
        announce(table, max(dropped.bound, read_bound(table, bound_property) or dropped.bound))
        change = TableCommit(
            removed_files=dropped.files,
            properties={**bound_property_update(table, bound_property, dropped.bound), **properties(table)},
            summary={RETENTION_SUMMARY_KEY: dropped.bound.isoformat(), **carry_over_summary(table)},
            protected=frozenset(protected(table)),
            operation=Operation.DELETE,
        )
        commit_change(table, change)
        return dropped

    return retry_conflicts(load, attempt, purpose="of retention")


def announce_frozen_before(load: Callable[[], Table], trades: Table, bound: datetime) -> None:
    """Announce in a candle table that the trades before a bound are about to be dropped.

    If the process ends between the drop and `remember_frozen_before`, the announcement is the only record of
    the bound beside the trades table. A table without a snapshot has no candles and is not changed.

    Raises:
        CommitConflictError: other writers won every attempt. No trades are dropped then.
    """
    table = load()
    if table.current_snapshot() is None or not announcement_update(table, trades, bound):
        return

    def build_commit(candles: Table) -> TableCommit:
        return TableCommit(
            properties=announcement_update(candles, trades, bound), summary=carry_over_summary(candles)
        )

    commit_with_retry(load, build_commit)


def remember_frozen_before(load: Callable[[], Table], bound: datetime) -> None:
    """Move `frozen_before` of a candle table forward to the bound of the trades.

    A refresh copies the bound too, but an up-to-date table may have no refresh for a long time. If the
    trades table is created again meanwhile, it has no bound. A refresh would then remove frozen candles,
    because they have no trades. A table without a snapshot has no candles and is not changed.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    table = load()
    if table.current_snapshot() is None or not bound_property_update(table, FROZEN_BEFORE, bound):
        return

    def build_commit(candles: Table) -> TableCommit:
        return TableCommit(
            properties=bound_property_update(candles, FROZEN_BEFORE, bound),
            summary=carry_over_summary(candles),
        )

    commit_with_retry(load, build_commit)
