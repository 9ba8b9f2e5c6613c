"""Files that no snapshot reaches: which they are, and removing them. Whatever a snapshot reaches stays.

A process that dies between an expiry and the removal leaves files that nothing knows. `remove_orphans`
removes them in a later run, once they are old enough.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.lake.maintenance.table_files import Key, RemovedFiles, TableFiles

_VERSION_HINT = "version-hint.text"


def referenced_files(table: Table, snapshots: Iterable[Snapshot]) -> set[str]:
    """Every file that some snapshots of a table need: manifest lists, manifests, data and delete files."""
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
    """The files that these snapshots need and no other one of the table does."""
    gone = set(expiring)
    going = [s for s in table.snapshots() if s.snapshot_id in gone]
    found = referenced_files(table, going)
    found |= {s.statistics_path for s in table.metadata.statistics if s.snapshot_id in gone}
    return found - _live_paths(table, (s for s in table.snapshots() if s.snapshot_id not in gone), gone)


def _live_paths(table: Table, snapshots: Iterable[Snapshot], without: Iterable[int] = ()) -> set[str]:
    metadata = table.metadata
    statistics = {s.statistics_path for s in metadata.statistics if s.snapshot_id not in without}
    statistics |= {s.statistics_path for s in metadata.partition_statistics}
    versions = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    return referenced_files(table, snapshots) | statistics | versions


def remove_unreached(load: Callable[[], Table], paths: Iterable[str]) -> RemovedFiles:
    """Remove those of some files that no snapshot reaches now.

    Args:
        load: loads the table, as the catalog has it now.
        paths: the files.
    """
    table = load()
    location = TableFiles(table)
    return location.remove_files({location.path_key(path) for path in paths} - _live_keys(location, table))


def _live_keys(location: TableFiles, table: Table) -> set[Key]:
    return {location.path_key(path) for path in _live_paths(table, table.snapshots())}


def remove_orphans(load: Callable[[], Table], now: datetime) -> RemovedFiles:
    """Remove files that nothing knows and that no commit under way can be about to name."""
    location = TableFiles(load())
    there = location.list_files()
    table = load()  # after the look: whatever was committed meanwhile is known
    alive = _live_keys(location, table)
    old = [f.key for f in there if now - f.modified_at > ORPHAN_AGE]
    return location.remove_files(
        key for key in old if key not in alive and not key.base.startswith(_VERSION_HINT)
    )
