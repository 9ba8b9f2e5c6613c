"""Signs of life that a run gives while its process is there: a lock on a file, and a heartbeat in its tags.

The lock tells across the containers of one machine: the system lets go of it when the process ends, however
it ends. Only holders on the same kernel are judged by it, as a network disk may keep locks to one machine.
Elsewhere the heartbeat tells. Clocks differ, so its time is not compared with ours: whoever watches counts
for how long it has not changed. What is done with a lost run is in `runs`.
"""

import fcntl
import json
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import dagster as dg
import structlog

#: The kernel that holds the run's lock: another one for every boot of every machine.
BOOT_TAG = "k2/kernel"
HEARTBEAT_TAG = "k2/heartbeat"

#: A run renews its tag so often.
HEARTBEAT_SECONDS = 60.0
#: A heartbeat that was watched for so long without a change is that of a dead run. Many beats, as a process
#: may be suspended, or its storage away, for some minutes.
SILENT_SECONDS = 15 * 60.0
#: Between two looks at most so much counts: a watcher that slept, with its machine, saw nothing meanwhile.
_WATCH_SECONDS = 120.0

_log = structlog.get_logger(__name__)


def boot_id() -> str:
    """The id of this boot of this machine, the same in all its containers; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return ""


@contextmanager
def show_liveness(instance: dg.DagsterInstance, run_id: str, tags: Mapping[str, str]) -> Iterator[None]:
    """Give both signs while inside.

    Args:
        instance: where the run is recorded.
        run_id: the run that this process works on.
        tags: recorded with the first heartbeat.
    """
    lock = _hold_lock_file(lock_file(instance, run_id))
    held = {BOOT_TAG: boot_id()} if lock and boot_id() else {}
    instance.add_run_tags(run_id, {**tags, **held, HEARTBEAT_TAG: _timestamp()})
    done = threading.Event()
    thread = threading.Thread(target=_send_heartbeats, args=(instance, run_id, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(HEARTBEAT_SECONDS)
        if lock:
            # Removed while it is held: whoever finds no file knows nothing, and does not take us for dead.
            lock_file(instance, run_id).unlink(missing_ok=True)
            lock.close()


def _send_heartbeats(instance: dg.DagsterInstance, run_id: str, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            instance.add_run_tags(run_id, {HEARTBEAT_TAG: _timestamp()})
        except Exception as error:  # the storage may be away for a while: the run goes on, and so do we
            _log.warning("a heartbeat was not recorded", run_id=run_id, error=str(error))


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def lock_file(instance: dg.DagsterInstance, run_id: str) -> Path:
    """The file that a run holds: beside Dagster's storage, which all share who share its runs on one disk."""
    return Path(instance.root_directory) / "run-locks" / f"{run_id}.lock"


def _hold_lock_file(path: Path) -> IO[str] | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a disk without locks
        file.close()
        return None
    return file


def is_lock_held(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool | None:
    """Whether a process holds the run's lock; None where that cannot be known."""
    if not boot_id() or run.tags.get(BOOT_TAG) != boot_id():
        return None
    path = lock_file(instance, run.run_id)
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One that was removed since it was opened belonged to a run that ended.
            return False if path.exists() and path.samefile(f"/proc/self/fd/{file.fileno()}") else None
    except BlockingIOError:
        return True
    except OSError:
        return None


def remove_locks(instance: dg.DagsterInstance, alive: Collection[str]) -> None:
    """Remove the files of runs that are over and that no process holds.

    Args:
        instance: where the runs are recorded.
        alive: the ids of the runs that are not over.
    """
    for path in lock_file(instance, "").parent.glob("*.lock"):
        if path.stem not in alive:
            with suppress(OSError), path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)


@dataclass
class HeartbeatWatch:
    """What a watcher has seen of heartbeats, and for how long it saw no change.

    Attributes:
        seen: by the run's id, the heartbeat, and the seconds for which it was watched without a change.
        last_look: when the watcher last looked, in seconds of its clock; None before the first look.
    """

    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    last_look: float | None = None

    def find_silent(self, runs: Collection[dg.DagsterRun], now: float) -> set[str]:
        """Look at the runs that are not over; gives the ids of those that have been silent for too long.

        Args:
            runs: runs without a heartbeat, as of older versions, are never silent.
            now: seconds of the watcher's clock.
        """
        passed = 0.0 if self.last_look is None else min(max(now - self.last_look, 0.0), _WATCH_SECONDS)
        self.last_look = now
        before, self.seen = self.seen, {}
        for run in runs:
            if beat := run.tags.get(HEARTBEAT_TAG):
                known, silent = before.get(run.run_id, ("", 0.0))
                self.seen[run.run_id] = (beat, silent + passed if known == beat else 0.0)
        return {run_id for run_id, (_, silent) in self.seen.items() if silent >= SILENT_SECONDS}

    def to_cursor(self) -> str:
        """The watch as a sensor's cursor."""
        return json.dumps({"seen": self.seen, "looked": self.last_look})

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "HeartbeatWatch":
        """The watch of a sensor's cursor; a new one where that says nothing."""
        try:
            found = json.loads(cursor or "")
            seen = {str(run_id): (str(beat), float(s)) for run_id, (beat, s) in found["seen"].items()}
            return cls(seen, float(found["looked"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()
