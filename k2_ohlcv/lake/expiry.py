"""Dropping whole partitions, and expiring snapshots: each one commit, against what was looked at.

What goes is decided in `domain.retention`; files are removed by `sweep`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import SnapshotRef
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.table.update import AddSnapshotUpdate, AssertRefSnapshotId, ValidatableTableRequirement
from pyiceberg.table.update.snapshot import ExpireSnapshots

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.domain.retention import expired, snapshots_since, snapshots_to_expire
from k2_ohlcv.domain.window import Interval
from k2_ohlcv.lake.commit import DROPS, Change, commit, referenced, versions_of
from k2_ohlcv.lake.files import live_files, partition_of, table_grain
from k2_ohlcv.lake.lines import moved_to
from k2_ohlcv.lake.location import Removed
from k2_ohlcv.lake.retry import CONFLICTS, retry_conflicts
from k2_ohlcv.lake.sweep import only_reached_by, remove_unreached
from k2_ohlcv.lake.watermark import carried

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Going:
    """What of a table has ended by a cutoff: whole partitions, and the data files that are in them."""

    cutoff: datetime | None = None
    partitions: tuple[Interval, ...] = ()
    files: tuple[DataFile, ...] = ()

    @property
    def line(self) -> datetime:
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
    def of(cls, table: Table, cutoff: datetime | None) -> "Going":
        """What goes from a table as it was loaded."""
        grain = table_grain(table)
        files = live_files(table, table.metadata.current_snapshot_id)
        data = [(partition_of(f.file, grain), f.file) for f in files if not f.is_delete]
        partitions = expired((partition for partition, _ in data), cutoff)
        gone = set(partitions)
        return cls(cutoff, tuple(partitions), tuple(file for partition, file in data if partition in gone))


def drop(
    load: Callable[[], Table],
    look: Callable[[Table], Going],
    line: str,
    protected: Callable[[Table], Collection[int]] = lambda _: (),
    properties: Callable[[Table], Mapping[str, str]] = lambda _: {},
) -> Going:
    """Drop whole partitions from a table and move its line, in one commit that touches metadata alone.

    Args:
        load: loads the table, as the catalog has it now.
        look: what goes from it; asked again where another commit came between.
        line: the property that holds the line.
        protected: snapshots that the commit may not expire.
        properties: further table properties that the commit sets.

    Returns:
        What went.

    Raises:
        CommitConflictError: others committed first, each time.
    """

    def attempt(table: Table) -> Going:
        going = look(table)
        if not going.partitions:
            return going
        change = Change(
            removed=going.files,
            properties={**moved_to(table, line, going.line), **properties(table)},
            summary={DROPS: going.line.isoformat(), **carried(table)},
            protected=frozenset(protected(table)),
            operation=Operation.DELETE,
        )
        commit(table, change)
        return going

    return retry_conflicts(load, attempt, purpose="of retention")


@dataclass(frozen=True)
class Expiry:
    """Snapshots that expired, and the files that went with them."""

    snapshots: int = 0
    removed: Removed = field(default_factory=Removed)


def expire(
    load: Callable[[], Table], before: datetime, needed: Callable[[], Collection[int]] = lambda: ()
) -> Expiry:
    """Expire the snapshots of a table made before a moment, and remove the files that only they reached.

    Args:
        load: loads the table, as the catalog has it now.
        before: the moment.
        needed: the snapshots that watermarks name: they stay, and all after the first of them.

    Raises:
        CommitConflictError: others committed first, each time.
    """
    table = load()
    going = _old(table, before, needed())
    if not going:
        return Expiry()
    files = only_reached_by(table, going)
    still: Collection[int] = ()

    def load_after_needed() -> Table:
        # Tags, branches and watermarks may have come since: what they need is asked for immediately before.
        nonlocal still
        still = needed()
        return load()

    def attempt(table: Table) -> Expiry:
        chosen = [i for i in _old(table, before, still) if i in going]
        if chosen:
            _expire(table, chosen)
        return Expiry(len(chosen), remove_unreached(load, files))

    return retry_conflicts(load_after_needed, attempt, purpose="of retention")


def _old(table: Table, before: datetime, needed: Collection[int]) -> list[int]:
    versions = versions_of(table.metadata)
    held = {table.metadata.current_snapshot_id or 0} | referenced(table.metadata)
    return snapshots_to_expire(
        versions, older_than=before, protected=held | snapshots_since(versions, needed)
    )


class _NoOtherRefs(ValidatableTableRequirement):
    """No tag or branch has come since the table was loaded. Catalogs in this process hold commits to it."""

    type: str = "k2-no-other-refs"
    known: frozenset[str]

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override] # as theirs
        others = set(base_metadata.refs) - self.known if base_metadata else set()
        if others:
            raise CommitFailedException(f"tags or branches were made meanwhile: {', '.join(sorted(others))}")


def _expire(table: Table, snapshots: Sequence[int]) -> None:
    """Commit, held to every reference that there is; no file is removed yet."""
    base, refs = table.metadata_location, table.metadata.refs
    before = {s.snapshot_id: s for s in table.snapshots()}
    transaction = table.transaction()
    ExpireSnapshots(transaction).by_ids(list(snapshots)).commit()
    held = [{"ref": name, "snapshot-id": ref.snapshot_id} for name, ref in refs.items()]
    transaction._stage((), tuple(AssertRefSnapshotId.model_validate(one) for one in held))
    if isinstance(table.catalog, MetastoreCatalog):
        transaction._stage((), (_NoOtherRefs(known=frozenset(refs)),))  # type: ignore[arg-type] # not Iceberg's
    transaction.commit_transaction()
    if lost := _lost_refs(table, base, snapshots):
        _restore(table, lost, before)


def _lost_refs(table: Table, base: str, snapshots: Collection[int]) -> dict[str, SnapshotRef]:
    """References of the version that the commit was put upon, if not ours, to snapshots that expired.

    Not every catalog can hold a commit to there being no new reference.
    """
    log = table.metadata.metadata_log
    if not log or log[-1].metadata_file == base:
        return {}
    between = FromInputFile.table_metadata(table.io.new_input(log[-1].metadata_file))
    return {name: ref for name, ref in between.refs.items() if ref.snapshot_id in snapshots}


def _restore(table: Table, lost: Mapping[str, SnapshotRef], before: Mapping[int, Snapshot]) -> None:
    """Bring back references that were made in the very moment of the commit, with their snapshots."""
    named = ", ".join(f"{name} (snapshot {ref.snapshot_id})" for name, ref in lost.items())
    _log.warning(
        "references were lost with their snapshots; bringing them back", table=table.name()[-1], refs=named
    )
    transaction = table.transaction()
    for snapshot_id in {ref.snapshot_id for ref in lost.values()}:
        # As a new one of the old content: a table's sequence and clock would go back to those it had.
        metadata = transaction.table_metadata
        fresh: dict[str, object] = {
            "parent_snapshot_id": None,
            "sequence_number": metadata.next_sequence_number(),
            "timestamp_ms": metadata.last_updated_ms,
        }
        renewed = before[snapshot_id].model_copy(update=fresh)
        transaction._stage((AddSnapshotUpdate(snapshot=renewed),))
    for name, ref in lost.items():
        transaction._stage(*transaction._set_ref_snapshot(ref.snapshot_id, name, ref.snapshot_ref_type))
    try:
        transaction.commit_transaction()
    except CONFLICTS as conflict:
        raise CommitConflictError(
            f"references of {table.name()[-1]} were made while their snapshots expired, and could not be "
            f"brought back: {named}. Their files are still there until retention runs again"
        ) from conflict
