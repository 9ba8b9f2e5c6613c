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

from k2_ohlcv.domain.retention import Version, snapshots_to_expire
from k2_ohlcv.lake.delete_files import still_bearing
from k2_ohlcv.lake.files import files_of
from k2_ohlcv.lake.retry import CONFLICTS, retry_conflicts
from k2_ohlcv.lake.schemas import SNAPSHOTS_KEPT

#: In a snapshot's summary: retention dropped whole partitions, up to this line. No window changed by it.
DROPS = "k2.dropped-before"

#: Manifests of a table are merged when so many have gathered, into ones of at most so many bytes: some 200
#: files each, which PyIceberg reads and writes in a tenth of a second. With 8 MB, Iceberg's own default, a
#: merge would cost what is stored.
_MANIFESTS = 16
_MANIFEST_BYTES = 128 * 1024


@dataclass(frozen=True)
class Change:
    """What one commit does to a table.

    Attributes:
        removed: data files that go.
        rows: rows that come, as new data files; may be empty.
        properties: table properties to set with them.
        summary: what the snapshot says of itself, for people and for later readers of the history.
        protected: snapshots that must not expire with this commit.
        files: data files that come, written already; removed again if the commit fails.
        has_reusable_files: whether they stay then, for another attempt.
        operation: what the snapshot says that it did; `overwrite` where nothing is said.
    """

    removed: tuple[DataFile, ...] = ()
    rows: pa.Table | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    summary: Mapping[str, str] = field(default_factory=dict)
    protected: frozenset[int] = frozenset()
    files: tuple[DataFile, ...] = ()
    has_reusable_files: bool = False
    operation: Operation | None = None


class CommitOf(Transaction):
    """A transaction that applies what is staged once, and copies nothing.

    PyIceberg's own applies it anew and copies all metadata, snapshot by snapshot, at each of some ten looks a
    commit: 0.3 s of the 0.37 s that one took at 100 snapshots.
    """

    _applied: tuple[TableUpdate, ...] = ()
    _made: TableMetadata | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata with what has been staged. What is committed, the catalog makes anew."""
        if self._made is None or self._applied is not self._updates:
            made, context = self._table.metadata, _TableMetadataUpdateContext()
            for update in self._updates:
                made = _apply_table_update(update, made, context)
            self._made, self._applied = made, self._updates
        return self._made


class _OneSnapshot(_OverwriteFiles):
    """An overwrite that merges small manifests, and with them those that only say what was deleted.

    Delete files of other engines go where they bear on no data file any more.
    """

    says: Operation | None = None

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        """The summary, under the name of what was done: PyIceberg knows no `replace`."""
        summary = super()._summary(snapshot_properties)
        return Summary(self.says, **summary.additional_properties) if self.says else summary

    def _build_manifest_evaluator(self, spec_id: int) -> Callable[[ManifestFile], bool]:
        """Whether a manifest holds a file that goes: what those of its partitions hold is mostly known."""
        near = super()._build_manifest_evaluator(spec_id)
        gone = {file.file_path for file in self._deleted_data_files}
        return lambda manifest: (
            bool(gone)
            and near(manifest)
            and any(file.file_path in gone for file in files_of(self._io, manifest))
        )

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        data = [m for m in manifests if m.content == ManifestContent.DATA]
        merger = _ManifestMergeManager(_MANIFEST_BYTES, _MANIFESTS, True, self)
        table = self._transaction._table
        return merger.merge_manifests(data) + still_bearing(table, manifests, self._deleted_data_files)


def commit(table: Table, change: Change) -> Table:
    """Commit a change against the table as it was loaded, as exactly one snapshot.

    Even a change of properties alone makes a snapshot, so that it conflicts with every other commit.

    Returns:
        The table as it is after the commit.

    Raises:
        CommitFailedException, ValidationException: the table moved since it was loaded (`CONFLICTS`).
            Nothing is committed and the new data files are removed.
    """
    transaction = CommitOf(table)
    operation = Operation.OVERWRITE if table.current_snapshot() else Operation.APPEND
    producer = _OneSnapshot(operation, transaction, table.io, snapshot_properties=dict(change.summary))
    producer.says = change.operation
    written = [] if change.has_reusable_files else list(change.files)
    try:
        for data_file in change.files:
            producer.append_data_file(data_file)
        for data_file in change.removed:
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
        _expire(transaction, change.protected)
        return transaction.commit_transaction()
    except CONFLICTS:
        remove_uncommitted(table, written)
        raise


def commit_with_retry(load: Callable[[], Table], change: Callable[[Table], Change]) -> Table:
    """Commit a change that is made anew for each attempt, against the table as it is then.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    return retry_conflicts(load, lambda table: commit(table, change(table)))


def versions_of(metadata: TableMetadata) -> list[Version]:
    """The snapshots of a table, as retention sees them."""
    return [
        Version(s.snapshot_id, s.sequence_number or 0, datetime.fromtimestamp(s.timestamp_ms / 1000, UTC))
        for s in metadata.snapshots
    ]


def referenced(metadata: TableMetadata) -> set[int]:
    """The snapshots that a branch or tag names; of them the current one."""
    return {ref.snapshot_id for ref in metadata.refs.values()}


def _expire(transaction: Transaction, protected: Iterable[int]) -> None:
    metadata = transaction.table_metadata
    old = snapshots_to_expire(
        versions_of(metadata),
        keep_newest=SNAPSHOTS_KEPT,
        protected=referenced(metadata) | set(protected),
    )
    if old:
        ExpireSnapshots(transaction).by_ids(old).commit()


def remove_uncommitted(table: Table, files: Iterable[DataFile]) -> None:
    """Remove data files that no commit took. A store that refuses is left with them, and holds up nothing."""
    for data_file in files:
        try:
            table.io.delete(data_file.file_path)
        except OSError:
            continue  # left for retention's sweep of files that nothing knows
