"""One commit is one snapshot: files out, files in, properties and expiry, against one base.

The one place that reaches below PyIceberg's public API: `tx.overwrite` makes two snapshots, never drops the
manifests that only say what was deleted, and never merges any. What to commit is decided in `candles`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Summary
from pyiceberg.table.update import TableUpdate, _apply_table_update, _TableMetadataUpdateContext
from pyiceberg.table.update.snapshot import ExpireSnapshots, _ManifestMergeManager, _OverwriteFiles
from pyiceberg.typedef import EMPTY_DICT

from k2_ohlcv.domain.retention import SnapshotInfo, snapshots_to_expire
from k2_ohlcv.lake.delete_files import applicable_delete_manifests
from k2_ohlcv.lake.metadata.files import read_live_files
from k2_ohlcv.lake.retry import CONFLICT_ERRORS, retry_conflicts
from k2_ohlcv.lake.schemas import MIN_SNAPSHOTS_KEPT

#: In a snapshot's summary: retention dropped whole partitions, up to this line. No window changed by it.
RETENTION_SUMMARY_KEY = "k2.dropped-before"

#: Manifests of a table are merged when so many have gathered, into ones of at most so many bytes: some 200
#: files each, which PyIceberg reads and writes in a tenth of a second. With 8 MB, Iceberg's own default, a
#: merge would cost what is stored.
_MIN_MANIFESTS_TO_MERGE = 16
_MANIFEST_BYTES = 128 * 1024


@dataclass(frozen=True)
class TableCommit:
    """What one commit does to a table.

    Attributes:
        removed_files: data files that go.
        rows: rows that come, as new data files; may be empty.
        properties: table properties to set with them.
        summary: what the snapshot says of itself, for people and for later readers of the history.
        protected: snapshots that must not expire with this commit.
        files: data files that come, written already; removed again if the commit fails.
        has_reusable_files: whether they stay then, for another attempt.
        operation: what the snapshot says that it did; `overwrite` where nothing is said.
    """

    removed_files: tuple[DataFile, ...] = ()
    rows: pa.Table | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    summary: Mapping[str, str] = field(default_factory=dict)
    protected: frozenset[int] = frozenset()
    files: tuple[DataFile, ...] = ()
    has_reusable_files: bool = False
    operation: Operation | None = None


class CachedTransaction(Transaction):
    """A transaction that applies what is staged once, and copies nothing.

    PyIceberg's own applies it anew and copies all metadata, snapshot by snapshot, at each of some ten looks a
    commit: 0.3 s of the 0.37 s that one took at 100 snapshots.
    """

    _applied: tuple[TableUpdate, ...] = ()
    _cached_metadata: TableMetadata | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata with what has been staged. What is committed, the catalog makes anew."""
        if self._cached_metadata is None or self._applied is not self._updates:
            made, context = self._table.metadata, _TableMetadataUpdateContext()
            for update in self._updates:
                made = _apply_table_update(update, made, context)
            self._cached_metadata, self._applied = made, self._updates
        return self._cached_metadata


class SingleSnapshotOverwrite(_OverwriteFiles):
    """An overwrite that merges small manifests, and with them those that only say what was deleted.

    Delete files of other engines go where they bear on no data file any more.
    """

    snapshot_summary: Operation | None = None

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        """The summary, under the name of what was done: PyIceberg knows no `replace`."""
        summary = super()._summary(snapshot_properties)
        return (
            Summary(self.snapshot_summary, **summary.additional_properties)
            if self.snapshot_summary
            else summary
        )

    def _build_manifest_evaluator(self, spec_id: int) -> Callable[[ManifestFile], bool]:
        """Whether a manifest holds a file that goes: what those of its partitions hold is mostly known.

        PyIceberg asks from several threads. Its evaluator keeps the partitions of the manifest that it looks
        at, so each question gets an evaluator of its own. A shared one now and then misses a manifest.
        """
        build = super()._build_manifest_evaluator
        gone = {file.file_path for file in self._deleted_data_files}
        return lambda manifest: (
            bool(gone)
            and build(spec_id)(manifest)
            and any(file.file_path in gone for file in read_live_files(self._io, manifest))
        )

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        data = [m for m in manifests if m.content == ManifestContent.DATA]
        merger = _ManifestMergeManager(_MANIFEST_BYTES, _MIN_MANIFESTS_TO_MERGE, True, self)
        table = self._transaction._table
        return merger.merge_manifests(data) + applicable_delete_manifests(
            table, manifests, self._deleted_data_files
        )


def commit_change(table: Table, change: TableCommit) -> Table:
    """Commit a change against the table as it was loaded, as exactly one snapshot.

    Even a change of properties alone makes a snapshot, so that it conflicts with every other commit.

    Returns:
        The table as it is after the commit.

    Raises:
        CommitFailedException, ValidationException: the table moved since it was loaded (`CONFLICT_ERRORS`).
            Nothing is committed and the new data files are removed.
    """
    transaction = CachedTransaction(table)
    operation = Operation.OVERWRITE if table.current_snapshot() else Operation.APPEND
    producer = SingleSnapshotOverwrite(
        operation, transaction, table.io, snapshot_properties=dict(change.summary)
    )
    producer.snapshot_summary = change.operation
    written = [] if change.has_reusable_files else list(change.files)
    try:
        for data_file in change.files:
            producer.append_data_file(data_file)
        for data_file in change.removed_files:
            producer.delete_data_file(data_file)
        if change.rows is not None and change.rows.num_rows:
            for data_file in _dataframe_to_data_files(
                table.metadata, change.rows, table.io, write_uuid=producer.commit_uuid
            ):
                written.append(data_file)
                producer.append_data_file(data_file)
        producer.commit()
        if change.properties:
            transaction.set_properties(dict(change.properties))
        _expire_snapshots(transaction, change.protected)
        return transaction.commit_transaction()
    except CONFLICT_ERRORS:
        remove_uncommitted_files(table, written)
        raise


def commit_with_retry(load: Callable[[], Table], change: Callable[[Table], TableCommit]) -> Table:
    """Commit a change that is made anew for each attempt, against the table as it is then.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    return retry_conflicts(load, lambda table: commit_change(table, change(table)))


def snapshot_infos(metadata: TableMetadata) -> list[SnapshotInfo]:
    """The snapshots of a table, as retention sees them."""
    return [
        SnapshotInfo(
            s.snapshot_id, s.sequence_number or 0, datetime.fromtimestamp(s.timestamp_ms / 1000, UTC)
        )
        for s in metadata.snapshots
    ]


def referenced_snapshots(metadata: TableMetadata) -> set[int]:
    """The snapshots that a branch or tag names; of them the current one."""
    return {ref.snapshot_id for ref in metadata.refs.values()}


def _expire_snapshots(transaction: Transaction, protected: Iterable[int]) -> None:
    metadata = transaction.table_metadata
    old = snapshots_to_expire(
        snapshot_infos(metadata),
        keep_newest=MIN_SNAPSHOTS_KEPT,
        protected=referenced_snapshots(metadata) | set(protected),
    )
    if old:
        ExpireSnapshots(transaction).by_ids(old).commit()


def remove_uncommitted_files(table: Table, files: Iterable[DataFile]) -> None:
    """Remove data files that no commit took. A store that refuses is left with them, and holds up nothing."""
    for data_file in files:
        try:
            table.io.delete(data_file.file_path)
        except OSError:
            continue  # left for retention's sweep of files that nothing knows
