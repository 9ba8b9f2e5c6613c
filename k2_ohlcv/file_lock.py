"""Locks between processes of one machine: an open file, held until it is closed or its process ends.

Who holds what, and why, is said where the lock is taken.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a file's lock; wait for whoever has it. The file stays, as a removed one would hold nobody off."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
