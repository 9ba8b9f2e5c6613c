"""Creates the temporary folder of an ingestion, and removes folders of killed processes.

A process locks a file beside its folder. The operating system releases the lock when the process ends, even
after a crash. A folder without a lock therefore belongs to a dead process.
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
    """Create a temporary folder, and remove it at the end. Folders of dead processes are removed first."""
    workspace.mkdir(parents=True, exist_ok=True)
    with (workspace / ".lock").open("w") as gate:
        # The lock covers the time before the new folder is locked. No other process can remove it as dead.
        fcntl.flock(gate, fcntl.LOCK_EX)
        _remove_dead_folders(workspace)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=workspace))
        lock = _lock_path(folder).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _lock_path(folder).unlink(missing_ok=True)
        lock.close()


def is_in_use(workspace: Path) -> bool:
    """Whether a living process has a temporary folder in the workspace. Nothing is removed."""
    for lock_path in workspace.glob(f"{_PREFIX}*.lock"):
        with lock_path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


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
                continue  # its process is alive
            shutil.rmtree(folder, ignore_errors=True)
            _lock_path(folder).unlink(missing_ok=True)
