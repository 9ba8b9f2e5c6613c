"""Dropping whole partitions, and expiring snapshots: each one commit, against what was looked at.

What goes is decided in `domain.retention`; files are removed by `sweep`.
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
from k2_ohlcv.lake.commit import (
    referenced_snapshots,
    snapshot_infos,
)
from k2_ohlcv.lake.maintenance.orphan_files import files_only_referenced_by, remove_unreached
from k2_ohlcv.lake.maintenance.table_files import RemovedFiles
from k2_ohlcv.lake.retry import CONFLICT_ERRORS, retry_conflicts

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ExpireResult:
    """Snapshots that expired, and the files that went with them."""

    snapshots: int = 0
    removed: RemovedFiles = field(default_factory=RemovedFiles)


def expire_snapshots(
    load: Callable[[], Table], before: datetime, needed: Callable[[], Collection[int]] = lambda: ()
) -> ExpireResult:
    """Expire the snapshots of a table made before a moment, and remove the files that only they reached.

    Args:
        load: loads the table, as the catalog has it now.
        before: the moment.
        needed: the snapshots that watermarks name: they stay, and all after the first of them.

    Raises:
        CommitConflictError: others committed first, each time.
    """
    table = load()
    going = _expirable_snapshots(table, before, needed())
    if not going:
        return ExpireResult()
    files = files_only_referenced_by(table, going)
    still: Collection[int] = ()

    def load_after_needed() -> Table:
        # Tags, branches and watermarks may have come since: what they need is asked for immediately before.
        nonlocal still
        still = needed()
        return load()

    def attempt(table: Table) -> ExpireResult:
        chosen = [i for i in _expirable_snapshots(table, before, still) if i in going]
        if chosen:
            _commit_expiry(table, chosen)
        return ExpireResult(len(chosen), remove_unreached(load, files))

    return retry_conflicts(load_after_needed, attempt, purpose="of retention")


def _expirable_snapshots(table: Table, before: datetime, needed: Collection[int]) -> list[int]:
    versions = snapshot_infos(table.metadata)
    held = {table.metadata.current_snapshot_id or 0} | referenced_snapshots(table.metadata)
    return snapshots_to_expire(
        versions, older_than=before, protected=held | snapshots_since_oldest_needed(versions, needed)
    )


class _NoNewRefs(ValidatableTableRequirement):
    """No tag or branch has come since the table was loaded. Catalogs in this process hold commits to it."""

    type: str = "k2-no-other-refs"
    known: frozenset[str]

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override] # as theirs
        others = set(base_metadata.refs) - self.known if base_metadata else set()
        if others:
            raise CommitFailedException(f"tags or branches were made meanwhile: {', '.join(sorted(others))}")


def _commit_expiry(table: Table, snapshots: Sequence[int]) -> None:
    """Commit, held to every reference that there is; no file is removed yet."""
    base, refs = table.metadata_location, table.metadata.refs
    before = {s.snapshot_id: s for s in table.snapshots()}
    transaction = table.transaction()
    ExpireSnapshots(transaction).by_ids(list(snapshots)).commit()
    held = [{"ref": name, "snapshot-id": ref.snapshot_id} for name, ref in refs.items()]
    transaction._stage((), tuple(AssertRefSnapshotId.model_validate(one) for one in held))
    if isinstance(table.catalog, MetastoreCatalog):
        transaction._stage((), (_NoNewRefs(known=frozenset(refs)),))  # type: ignore[arg-type] # not Iceberg's
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
    except CONFLICT_ERRORS as conflict:
        raise CommitConflictError(
            f"references of {table.name()[-1]} were made while their snapshots expired, and could not be "
            f"brought back: {named}. Their files are still there until retention runs again"
        ) from conflict
