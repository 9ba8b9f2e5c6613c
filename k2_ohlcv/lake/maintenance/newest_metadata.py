"""Chooses the metadata file that the catalog should name: the newest good one that was committed.

A commit writes its metadata file first and moves the catalog's pointer then. A writer that loses the race, or
is killed in between, leaves a file that was never committed. Reading the files is in `metadata_files`.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pyiceberg.table import Table

from k2_ohlcv.lake.maintenance.metadata_files import MetadataFile, TableFolder
from k2_ohlcv.lake.maintenance.table_files import Key, TableFiles
from k2_ohlcv.lake.metadata.manifests import read_live_files


@dataclass(frozen=True)
class Choice:
    """The chosen metadata file of a folder.

    Attributes:
        file: the file; None if no file of the folder is good.
        notes: what was skipped or decided, as sentences.
    """

    file: MetadataFile | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """What else tells which metadata files were committed.

    Attributes:
        named: the file that the catalog names; None if it names none.
        snapshots: snapshots that candle tables have read.
    """

    named: Key | None = None
    snapshots: Collection[int] = ()


def choose_newest(table: Table, folder: TableFolder, evidence: Evidence) -> Choice:
    """Choose the newest good metadata file of a folder.

    The highest version wins. Of two files of one version only one was committed: the one that the catalog or
    a later file's log names, or whose snapshot a candle table has read. Else the one that was made first is
    taken, because the first writer mostly wins the race.

    Args:
        table: a table with the folder's location.
        folder: the folder with its files.
        evidence: what else tells which files were committed.

    Raises:
        OSError: the store fails.
    """
    notes = [f"{name} is skipped: {reason}." for name, reason in folder.skipped.items()]
    versions = sorted({file.version for file in folder.good}, reverse=True)
    for version in versions:
        rivals = [file for file in folder.good if file.version == version]
        complete = [file for file in rivals if _is_complete(table, folder, file, notes)]
        if complete:
            chosen, reason = _choose_rival(folder, complete, evidence)
            notes += reason
            notes += _unfinished_note(folder, chosen, evidence)
            notes += _other_lines(folder, chosen)
            return Choice(chosen, tuple(notes))
    return Choice(None, tuple(notes))


def _is_complete(table: Table, folder: TableFolder, file: MetadataFile, notes: list[str]) -> bool:
    """Whether the current snapshot of a file can be read: manifest list, manifests, and all data files."""
    reason = next(_defects(table, folder, file), None)
    if reason:
        notes.append(f"{file.name} is skipped: {reason}.")
    return reason is None


def _defects(table: Table, folder: TableFolder, file: MetadataFile) -> Iterator[str]:
    snapshot = file.metadata.current_snapshot()
    if snapshot is None:
        if file.metadata.current_snapshot_id not in {None, -1}:
            yield "its current snapshot is missing"
        return
    try:
        manifests = snapshot.manifests(table.io)
        paths = [data.file_path for manifest in manifests for data in read_live_files(table.io, manifest)]
    except FileNotFoundError:
        yield "a manifest of its snapshot is missing"
        return
    except OSError:
        raise  # an outage of the store must not make an older file the newest
    except Exception as error:  # the parsers raise many types for torn files
        yield f"a manifest of its snapshot is torn ({type(error).__name__})"
        return
    files = TableFiles(table)
    for path in paths:
        key = files.path_key(path)
        is_stored = key in folder.stored if files.is_inside(key) else table.io.new_input(path).exists()
        if not is_stored:
            yield f"the data file {path} of its snapshot is missing"


def _choose_rival(
    folder: TableFolder, rivals: list[MetadataFile], evidence: Evidence
) -> tuple[MetadataFile, list[str]]:
    """The committed one of several files of one version, and how it was told."""
    if len(rivals) == 1:
        return rivals[0], []
    rules = (
        ("the catalog names it", lambda file: file.key == evidence.named),
        ("a later file's log names it", lambda file: file.key in folder.committed),
        ("a candle table has read its snapshot", lambda file: _snapshot(file) in evidence.snapshots),
    )
    others = {file.name for file in rivals}
    for reason, is_committed in rules:
        if certain := [file for file in rivals if is_committed(file)]:
            others.discard(certain[0].name)
            return certain[0], [_rival_note(certain[0], others, f"{reason}, so it was committed")]
    first = min(rivals, key=lambda file: (file.metadata.last_updated_ms, file.name))
    others.discard(first.name)
    reason = (
        "nothing tells which one was committed, so the one that was made first is taken. If trades are "
        "missing, ingest their files again"
    )
    return first, [_rival_note(first, others, reason)]


def _rival_note(chosen: MetadataFile, others: Collection[str], reason: str) -> str:
    return f"{chosen.name} and {', '.join(sorted(others))} have the same version: {reason}."


def _unfinished_note(folder: TableFolder, chosen: MetadataFile, evidence: Evidence) -> list[str]:
    """A sentence where nothing proves that the chosen file was committed. Its rows are complete anyway."""
    is_known = chosen.key == evidence.named or _snapshot(chosen) in evidence.snapshots
    if is_known or chosen.key in folder.committed:
        return []
    return [
        f"{chosen.name} is the last one, so no later file names it. If its writer was killed before the "
        "commit ended, restoring it ends that commit."
    ]


def _other_lines(folder: TableFolder, chosen: MetadataFile) -> list[str]:
    """A sentence for each good file of a lower version that no other file names."""
    ends = sorted(
        (file for file in folder.good if file.key not in folder.committed and file.version < chosen.version),
        key=lambda file: file.version,
    )
    return [
        f"{file.name} was not committed, or was left behind when an older catalog was put back."
        for file in ends
    ]


def _snapshot(file: MetadataFile) -> int | None:
    return file.metadata.current_snapshot_id
