"""A folder for the length of one ingestion, and the end of those that killed ones left.

Each is held by a lock on a file beside it, which the system lets go of when its process ends, however it
ends.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "ingest-"


@contextmanager
def open_temp_folder(workspace: Path) -> Iterator[Path]:
    """A new empty folder in the workspace, removed at the end; those of dead processes are removed first."""
    workspace.mkdir(parents=True, exist_ok=True)
    with (workspace / ".lock").open("w") as gate:
        # One at a time from here to the lock on the new folder, so that no one takes it for a dead one's.
        fcntl.flock(gate, fcntl.LOCK_EX)
        _remove_dead_folders(workspace)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=workspace))
        held = _lock_path(folder).open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _lock_path(folder).unlink(missing_ok=True)
        held.close()


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove_dead_folders(workspace: Path) -> None:
    for folder in workspace.glob(f"{_PREFIX}*"):
        if not folder.is_dir():
            continue
        with _lock_path(folder).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process lives
            shutil.rmtree(folder, ignore_errors=True)
            _lock_path(folder).unlink(missing_ok=True)
