"""Files that no snapshot reaches: which they are, and removing them. Whatever a snapshot reaches stays.

What shall be removed with some snapshots is written down beside the table before they expire, so that a
process that dies in between leaves a list for the next one and not files that nothing knows.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from uuid import uuid4

import structlog
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.domain.window import DAY
from k2_ohlcv.lake.location import Key, Location, Removed

_LIST = "k2-removal-"
_HINT = "version-hint.text"
#: A list of files that are all reached still belongs to a run that is under way, or to one that gave up.
_LIST_AGE = DAY

_log = structlog.get_logger(__name__)


def reached(table: Table, snapshots: Iterable[Snapshot]) -> set[str]:
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


def only_reached_by(table: Table, expiring: Iterable[int]) -> set[str]:
    """The files that these snapshots need and no other one of the table does."""
    gone = set(expiring)
    going = [s for s in table.snapshots() if s.snapshot_id in gone]
    found = reached(table, going)
    found |= {s.statistics_path for s in table.metadata.statistics if s.snapshot_id in gone}
    return found - _alive(table, (s for s in table.snapshots() if s.snapshot_id not in gone), gone)


def _alive(table: Table, snapshots: Iterable[Snapshot], without: Iterable[int] = ()) -> set[str]:
    metadata = table.metadata
    statistics = {s.statistics_path for s in metadata.statistics if s.snapshot_id not in without}
    statistics |= {s.statistics_path for s in metadata.partition_statistics}
    versions = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    return reached(table, snapshots) | statistics | versions


def write_list(table: Table, paths: Iterable[str]) -> str:
    """Write down which files are about to be of no use; gives where."""
    path = f"{table.location().rstrip('/')}/metadata/{_LIST}{uuid4()}.json"
    Location(table).write(path, json.dumps(sorted(paths)).encode())
    return path


def remove_listed(load: Callable[[], Table], path: str) -> Removed:
    """Remove what a list names and nothing reaches now, and then the list.

    Args:
        load: loads the table, as the catalog has it now.
        path: where the list is.
    """
    table = load()
    location = Location(table)
    own = location.key(path)
    listed = {location.key(p) for p in json.loads(location.read(own))}
    return _remove_all(location, listed - _alive_keys(location, table), own)


def _remove_all(location: Location, listed: Iterable[Key], own: Key) -> Removed:
    """Remove files and then the list of them, which stays where the store refused to remove one."""
    removed = location.remove(listed)
    if not removed.refused:
        location.remove([own])
    return removed


def _alive_keys(location: Location, table: Table) -> set[Key]:
    return {location.key(path) for path in _alive(table, table.snapshots())}


def finish_lists(load: Callable[[], Table], now: datetime) -> Removed:
    """Finish what processes that died have left: the lists that lie beside the table."""
    table, removed = load(), Removed()
    location = Location(table)
    for found in [f for f in location.found() if f.key.base.startswith(_LIST)]:
        try:
            listed = {location.key(p) for p in json.loads(location.read(found.key))}
        except (ValueError, FileNotFoundError):
            listed = set()  # it was being written, or somebody else has just finished it
        alive = _alive_keys(location, table)
        if listed <= alive and now - found.written < _LIST_AGE:
            continue
        _log.info("finishing a removal that was cut off", table=location.name, files=len(listed))
        removed += _remove_all(location, listed - alive, found.key)
    return removed


def remove_orphans(load: Callable[[], Table], now: datetime) -> Removed:
    """Remove files that nothing knows and that no commit under way can be about to name."""
    location = Location(load())
    there = location.found()
    table = load()  # after the look: whatever was committed meanwhile is known
    alive = _alive_keys(location, table)
    old = [f.key for f in there if now - f.written > ORPHAN_AGE]
    return location.remove(key for key in old if key not in alive and not key.base.startswith((_LIST, _HINT)))


class Meter:
    """What commits of ours add to a table's metadata: what they write, less the versions they rotate out."""

    def __init__(self, table: Table) -> None:
        self._location = Location(table)
        self._known = {s.snapshot_id for s in table.snapshots()}
        self._version = table.metadata_location
        # One commit rotates out the oldest of the versions that are kept.
        oldest = [entry.metadata_file for entry in table.metadata.metadata_log[:2]]
        self._sizes = {path: self._size(path) for path in oldest}

    def added(self, table: Table) -> int:
        """Bytes added between the version that this was made with and the one that a commit led to."""
        kept = {entry.metadata_file for entry in table.metadata.metadata_log}
        rotated = sum(size for path, size in self._sizes.items() if path not in kept)
        return sum(map(self._size, self._written(table))) - rotated

    def _size(self, path: str) -> int:
        return self._location.size(self._location.key(path))

    def _written(self, table: Table) -> Iterator[str]:
        if table.metadata_location != self._version:
            yield table.metadata_location
        for snapshot in table.snapshots():
            if snapshot.snapshot_id not in self._known:
                yield snapshot.manifest_list
                for manifest in snapshot.manifests(table.io):
                    if manifest.added_snapshot_id == snapshot.snapshot_id:
                        yield manifest.manifest_path
