"""Decides whether a table's pointer moves to the newest good metadata file. It never moves backwards.

The steps of all tables are in `restore_catalog`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from k2_ohlcv.lake.maintenance.metadata_files import MetadataFile, read_metadata, version_of
from k2_ohlcv.lake.maintenance.table_files import TableFiles

#: What happens to a table. `refused` needs a person.
REGISTER, MOVE, KEEP, ABSENT, REFUSED = "register", "move", "keep", "absent", "refused"


@dataclass(frozen=True)
class TableRestore:
    """What a restore does with one table.

    Attributes:
        table: the name of the table.
        action: `register`, `move`, `keep`, `absent` (nothing in the warehouse) or `refused`.
        before: the metadata file that the catalog names; None if the catalog lacks the table.
        after: the metadata file to name; None without a change.
        rows: the rows of the current snapshot of `after`, where it says so.
        updated_at: the time of the last change in `after`, in UTC.
        notes: sentences for people: what was skipped, and why.
    """

    table: str
    action: str
    before: str | None = None
    after: str | None = None
    rows: int | None = None
    updated_at: datetime | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return the step as one JSON object."""
        time = self.updated_at.isoformat() if self.updated_at else None
        return {**vars(self), "updated_at": time, "notes": list(self.notes)}


def plan_move(table: Table, step: TableRestore, file: MetadataFile) -> TableRestore:
    """Decide between the file that the catalog names and the newest good one of the same folder.

    Args:
        table: a table with the folder's location.
        step: the step so far, with both files.
        file: the newest good file.

    Returns:
        The step with its action: move the pointer forward, keep it, or refuse.
    """
    before = step.before or ""
    key = TableFiles(table).path_key(before)
    if key == file.key:
        return replace(step, action=KEEP, after=None)
    pointed, state = _read_pointed(lambda: read_metadata(table, before))
    version = version_of(before) or 0
    if key in file.earlier or _is_older(file, version, pointed):
        note = f"the catalog names version {version}, and the warehouse has version {file.version}."
        return replace(step, action=MOVE, notes=(note, *step.notes))
    if pointed is not None and version >= file.version:
        state = "its snapshot cannot be read"
    return replace(
        step, action=REFUSED, after=None, notes=(_refusal(step, file, version, state), *step.notes)
    )


def _read_pointed(read: Callable[[], TableMetadata]) -> tuple[TableMetadata | None, str]:
    """The metadata that the catalog names, or None with the reason in words."""
    try:
        return read(), "it is the end of another line of commits"
    except FileNotFoundError:
        return None, "that file is missing"
    except OSError:
        raise
    except Exception:  # the parsers raise many types for torn files
        return None, "that file is torn"


def _is_older(file: MetadataFile, version: int, pointed: TableMetadata | None) -> bool:
    """Whether a pointer that the file's log does not name is of the same line of commits, but older.

    The log has the newest earlier files only. Commits delete the files that leave it.
    """
    oldest = min(file.earlier.values(), default=file.version)
    if version >= oldest:
        return False  # the log reaches so far back, and names another file of that version
    if pointed is None:
        return True
    snapshot, sequences = (
        pointed.current_snapshot_id,
        [s.sequence_number or 0 for s in file.metadata.snapshots],
    )
    return pointed.table_uuid == file.metadata.table_uuid and (
        snapshot in {None, -1}
        or file.metadata.snapshot_by_id(snapshot or 0) is not None
        or min(sequences, default=0) > getattr(pointed, "last_sequence_number", 0)
    )


def _refusal(step: TableRestore, file: MetadataFile, version: int, state: str) -> str:
    return (
        f"the catalog names {step.before} (version {version}), and {state}. The newest good file is "
        f"{file.path} (version {file.version}), and does not continue it. Nothing is changed, as commits "
        "could be lost. "
        "Restore that file from its backup. Or remove the table's entry from the catalog, and run this "
        "again to take the newest good file."
    )
