"""Expires snapshots in one commit against the loaded version of the table.

The choice of snapshots is in `domain.retention`. Removing their files is in `orphan_files`, dropping
partitions in `partition_drops`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import SnapshotRef
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import AddSnapshotUpdate, AssertRefSnapshotId, ValidatableTableRequirement
from pyiceberg.table.update.snapshot import ExpireSnapshots

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.domain.retention import snapshots_since_oldest_needed, snapshots_to_expire
from k2_ohlcv.lake.commit import referenced_snapshots, snapshot_infos
from k2_ohlcv.lake.maintenance.orphan_files import files_only_referenced_by, remove_unreferenced
from k2_ohlcv.lake.maintenance.table_files import RemovedFiles
from k2_ohlcv.lake.retry import CONFLICT_ERRORS, retry_conflicts

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ExpireResult:
    """The number of expired snapshots, and the files removed with them."""

    snapshots: int = 0
    removed: RemovedFiles = field(default_factory=RemovedFiles)


def expire_snapshots(
    load: Callable[[], Table], before: datetime, needed: Callable[[], Collection[int]] = lambda: ()
) -> ExpireResult:
    """Expire the snapshots of a table older than a time, and remove the files that only they referenced.

    Args:
        load: loads the current version of the table from the catalog.
        before: the time.
        needed: the snapshots of watermarks. The oldest of them and all later snapshots stay.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    table = load()
    expirable = _expirable_snapshots(table, before, needed())
    if not expirable:
        return ExpireResult()
    files = files_only_referenced_by(table, expirable)
    needed_now: Collection[int] = ()

    def load_after_needed() -> Table:
        # Watermarks may have changed since. Each attempt therefore reads them again before the table.
        nonlocal needed_now
        needed_now = needed()
        return load()

    def attempt(table: Table) -> ExpireResult:
        chosen = [i for i in _expirable_snapshots(table, before, needed_now) if i in expirable]
        if chosen:
            _commit_expiry(table, chosen)
        return ExpireResult(len(chosen), remove_unreferenced(load, files))

    return retry_conflicts(load_after_needed, attempt, purpose="of retention")


def _expirable_snapshots(table: Table, before: datetime, needed: Collection[int]) -> list[int]:
    infos = snapshot_infos(table.metadata)
    referenced = {table.metadata.current_snapshot_id or 0} | referenced_snapshots(table.metadata)
    return snapshots_to_expire(
        infos, older_than=before, protected=referenced | snapshots_since_oldest_needed(infos, needed)
    )


class _NoNewRefs(ValidatableTableRequirement):
    """Requires that no tag or branch was created since the table was loaded.

    Catalogs that commit in this process check the requirement.
    """

    type: str = "k2-no-other-refs"
    known: frozenset[str]

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override] # as PyIceberg
        new_refs = set(base_metadata.refs) - self.known if base_metadata else set()
        if new_refs:
            names = ", ".join(sorted(new_refs))
            raise CommitFailedException(f"tags or branches were created during the expiry: {names}")


def _commit_expiry(table: Table, snapshots: Sequence[int]) -> None:
    """Commit the expiry under the condition that no reference has changed. Files are removed later."""
    base, refs = table.metadata_location, table.metadata.refs
    before = {s.snapshot_id: s for s in table.snapshots()}
    transaction = table.transaction()
    ExpireSnapshots(transaction).by_ids(list(snapshots)).commit()
    required = [{"ref": name, "snapshot-id": ref.snapshot_id} for name, ref in refs.items()]
    transaction._stage((), tuple(AssertRefSnapshotId.model_validate(ref) for ref in required))
    if isinstance(table.catalog, MetastoreCatalog):
        transaction._stage((), (_NoNewRefs(known=frozenset(refs)),))  # type: ignore[arg-type] # not Iceberg's
    transaction.commit_transaction()
    if lost := _lost_refs(table, base, snapshots):
        _restore_refs(table, lost, before)


def _lost_refs(table: Table, base: str, snapshots: Collection[int]) -> dict[str, SnapshotRef]:
    """The references to expired snapshots that another writer created just before the commit.

    Some catalogs cannot check for new references at a commit. The commit is then based on another version
    than the loaded one.
    """
    log = table.metadata.metadata_log
    if not log or log[-1].metadata_file == base:
        return {}
    actual_base = FromInputFile.table_metadata(table.io.new_input(log[-1].metadata_file))
    return {name: ref for name, ref in actual_base.refs.items() if ref.snapshot_id in snapshots}


def _restore_refs(table: Table, lost: Mapping[str, SnapshotRef], before: Mapping[int, Snapshot]) -> None:
    """Restore references that were created during the commit, with their snapshots."""
    names = ", ".join(f"{name} (snapshot {ref.snapshot_id})" for name, ref in lost.items())
    _log.warning("restoring references of expired snapshots", table=table.name()[-1], refs=names)
    transaction = table.transaction()
    for snapshot_id in {ref.snapshot_id for ref in lost.values()}:
        # A new snapshot with the old content. The old snapshot would set the table's sequence and time back.
        metadata = transaction.table_metadata
        update: dict[str, object] = {
            "parent_snapshot_id": None,
            "sequence_number": metadata.next_sequence_number(),
            "timestamp_ms": metadata.last_updated_ms,
        }
        restored = before[snapshot_id].model_copy(update=update)
        transaction._stage((AddSnapshotUpdate(snapshot=restored),))
    for name, ref in lost.items():
        transaction._stage(*transaction._set_ref_snapshot(ref.snapshot_id, name, ref.snapshot_ref_type))
    try:
        transaction.commit_transaction()
    except CONFLICT_ERRORS as conflict:
        raise CommitConflictError(
            f"references of {table.name()[-1]} were created while their snapshots expired, and could not be "
            f"restored: {names}. Their files exist until retention runs again"
        ) from conflict
