"""File locks between the processes of one machine.

A lock lasts until its file is closed or its process ends. The caller documents the purpose of its lock.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Lock a file, and wait while another process has the lock.

    The file remains afterwards. Other processes could lock a new file beside a deleted one.
    """
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
