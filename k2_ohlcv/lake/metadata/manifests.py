"""Reads manifest lists and manifests with a cache, and lists the files of a snapshot.

The time spans of files, and the difference of two snapshots, are in `files`.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any

from cachetools import LRUCache, cached
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent, ManifestContent, ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

#: Iceberg's field id of the path column in position delete files. Its bounds name the affected data files.
_PATH_FIELD = 2147483546

#: Maximum manifest entries in a cache, some 2 kB each. One plan reads the same entries several times.
MAX_ENTRIES = 20_000
_MAX_MANIFESTS = 5_000


def new_cache(max_entries: int) -> LRUCache[object, Any]:
    """A cache of the entries of immutable files, bounded by the number of entries or one large file."""
    return LRUCache(max_entries, getsizeof=lambda entries: min(len(entries) + 1, max_entries))


def snapshot_manifests(table: Table, snapshot_id: int | None) -> dict[str, ManifestFile]:
    """The manifests of a snapshot by path; empty for None, the table without a snapshot.

    Raises:
        LookupError: the snapshot has expired.
    """
    if snapshot_id is None:
        return {}
    snapshot = table.metadata.snapshot_by_id(snapshot_id)
    if snapshot is None:
        raise LookupError(f"snapshot {snapshot_id} of {'.'.join(table.name())} has expired")
    return {manifest.manifest_path: manifest for manifest in _list_manifests(table.io, snapshot)}


@cached(new_cache(_MAX_MANIFESTS), key=lambda _, snapshot: snapshot.manifest_list, lock=Lock())
def _list_manifests(io: FileIO, snapshot: Snapshot) -> tuple[ManifestFile, ...]:
    return tuple(snapshot.manifests(io))


@cached(new_cache(MAX_ENTRIES), key=lambda _, manifest: manifest.manifest_path, lock=Lock())
def _files_with_sequence(io: FileIO, manifest: ManifestFile) -> tuple[tuple[DataFile, int], ...]:
    """The live files of a manifest with their data sequence numbers."""
    entries = manifest.fetch_manifest_entry(io, discard_deleted=True)
    return tuple((e.data_file, e.sequence_number or 0) for e in entries)


def manifest_files_with_sequence(table: Table, manifest: ManifestFile) -> Sequence[tuple[DataFile, int]]:
    """The live files of a manifest with their data sequence numbers."""
    return _files_with_sequence(table.io, manifest)


def read_live_files(io: FileIO, manifest: ManifestFile) -> list[DataFile]:
    """The live files of a manifest."""
    return [file for file, _ in _files_with_sequence(io, manifest)]


def files_with_sequence(table: Table, snapshot_id: int) -> list[tuple[DataFile, int]]:
    """The live data files of a snapshot with their data sequence numbers."""
    return _snapshot_files(table, snapshot_id, ManifestContent.DATA)


def deletes_with_sequence(table: Table, snapshot_id: int) -> list[tuple[DataFile, int]]:
    """The live delete files of a snapshot with their data sequence numbers."""
    return _snapshot_files(table, snapshot_id, ManifestContent.DELETES)


def data_files(table: Table, snapshot_id: int) -> list[DataFile]:
    """The live data files of a snapshot, without their time spans."""
    return [file for file, _ in files_with_sequence(table, snapshot_id)]


def delete_files(table: Table, snapshot_id: int) -> list[DataFile]:
    """The live delete files of a snapshot. Manifests of data files are not read."""
    return [file for file, _ in deletes_with_sequence(table, snapshot_id)]


def deleted_file(delete: DataFile) -> str | None:
    """The path of the one data file that a position delete file or deletion vector applies to.

    None where the delete file does not name exactly one data file.
    """
    referenced = getattr(delete, "referenced_data_file", None)
    if referenced is not None:
        return str(referenced)
    lower = (delete.lower_bounds or {}).get(_PATH_FIELD)
    upper = (delete.upper_bounds or {}).get(_PATH_FIELD)
    is_position = delete.content == DataFileContent.POSITION_DELETES
    return lower.decode() if is_position and lower is not None and lower == upper else None


def _snapshot_files(table: Table, snapshot_id: int, content: ManifestContent) -> list[tuple[DataFile, int]]:
    return [
        numbered
        for manifest in snapshot_manifests(table, snapshot_id).values()
        if manifest.content == content
        for numbered in _files_with_sequence(table.io, manifest)
    ]
