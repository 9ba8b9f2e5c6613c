"""Finds and removes orphan files: files that no snapshot references. Referenced files stay.

A process that is killed between an expiry and the removal of files leaves orphan files. `remove_orphans`
removes them in a later run, once they are old enough. Listing and deleting files is in `table_files`.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.lake.maintenance.table_files import Key, RemovedFiles, TableFiles

_VERSION_HINT = "version-hint.text"


def referenced_files(table: Table, snapshots: Iterable[Snapshot]) -> set[str]:
    """The files that snapshots of a table reference: manifest lists, manifests, data and delete files."""
    paths: set[str] = set()
    for snapshot in snapshots:
        paths.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path in paths:
                continue
            paths.add(manifest.manifest_path)
            entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
            paths.update(entry.data_file.file_path for entry in entries)
    return paths


def files_only_referenced_by(table: Table, expiring: Iterable[int]) -> set[str]:
    """The files that only these snapshots reference."""
    expiring_ids = set(expiring)
    paths = referenced_files(table, (s for s in table.snapshots() if s.snapshot_id in expiring_ids))
    paths |= {s.statistics_path for s in table.metadata.statistics if s.snapshot_id in expiring_ids}
    remaining = (s for s in table.snapshots() if s.snapshot_id not in expiring_ids)
    return paths - _live_paths(table, remaining, expiring_ids)


def _live_paths(table: Table, snapshots: Iterable[Snapshot], expiring: Iterable[int] = ()) -> set[str]:
    """The files that the snapshots and the table's metadata reference, without expiring snapshots."""
    metadata = table.metadata
    statistics = {s.statistics_path for s in metadata.statistics if s.snapshot_id not in expiring}
    statistics |= {s.statistics_path for s in metadata.partition_statistics}
    versions = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    return referenced_files(table, snapshots) | statistics | versions


def remove_unreferenced(load: Callable[[], Table], paths: Iterable[str]) -> RemovedFiles:
    """Remove the files that the current table does not reference.

    Args:
        load: loads the current version of the table from the catalog.
        paths: the paths of the files.
    """
    table = load()
    files = TableFiles(table)
    return files.remove_files({files.path_key(path) for path in paths} - _live_keys(files, table))


def _live_keys(files: TableFiles, table: Table) -> set[Key]:
    return {files.path_key(path) for path in _live_paths(table, table.snapshots())}


def remove_orphans(load: Callable[[], Table], now: datetime) -> RemovedFiles:
    """Remove orphan files that are too old to belong to a running commit."""
    files = TableFiles(load())
    stored = files.list_files()
    table = load()  # after the listing, so that files of a commit made meanwhile are referenced
    live_keys = _live_keys(files, table)
    old_keys = [f.key for f in stored if now - f.modified_at > ORPHAN_AGE]
    return files.remove_files(
        key for key in old_keys if key not in live_keys and not key.base.startswith(_VERSION_HINT)
    )
