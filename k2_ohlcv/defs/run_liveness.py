"""The lock and the heartbeat that show that a run's process is alive. Ending dead runs is in `dead_runs`.

The lock works across the containers of one machine: the kernel releases it when the process ends, however it
ends. A lock counts only on the kernel that holds it, as a network disk may keep locks to one machine.
Elsewhere the heartbeat counts. Clocks of machines differ, so its time is not compared with this machine's.
Each watcher measures instead for how long the heartbeat has not changed.
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

#: The boot of the machine that holds the run's lock: it is different for every boot of every machine.
BOOT_TAG = "k2/kernel"
HEARTBEAT_TAG = "k2/heartbeat"

#: The time between two heartbeats.
HEARTBEAT_SECONDS = 60.0
#: A run whose heartbeat did not change for so long is dead. Its process may be suspended, or its storage
#: unavailable, for some minutes.
SILENT_SECONDS = 15 * 60.0
#: The most that counts between two observations: a watcher that slept saw no heartbeats meanwhile.
_WATCH_SECONDS = 120.0

_log = structlog.get_logger(__name__)


def boot_id() -> str:
    """The id of this boot of the machine, the same in all its containers; empty if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return ""


@contextmanager
def show_liveness(instance: dg.DagsterInstance, run_id: str, tags: Mapping[str, str]) -> Iterator[None]:
    """Hold the lock and send heartbeats while the context is open.

    Args:
        instance: where the run is recorded.
        run_id: the run that this process works on.
        tags: further tags, recorded with the first heartbeat.
    """
    lock = _hold_lock_file(lock_file(instance, run_id))
    lock_tags = {BOOT_TAG: boot_id()} if lock and boot_id() else {}
    instance.add_run_tags(run_id, {**tags, **lock_tags, HEARTBEAT_TAG: _timestamp()})
    done = threading.Event()
    thread = threading.Thread(target=_send_heartbeats, args=(instance, run_id, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(HEARTBEAT_SECONDS)
        if lock:
            # Removed before the release: a watcher that finds no file does not take this run for dead.
            lock_file(instance, run_id).unlink(missing_ok=True)
            lock.close()


def _send_heartbeats(instance: dg.DagsterInstance, run_id: str, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            instance.add_run_tags(run_id, {HEARTBEAT_TAG: _timestamp()})
        except Exception as error:  # the storage may be unavailable for a while: the run continues
            _log.warning("heartbeat not recorded", run_id=run_id, error=str(error))


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def lock_file(instance: dg.DagsterInstance, run_id: str) -> Path:
    """The lock file of a run. It lies beside Dagster's storage, which all processes of the instance share."""
    return Path(instance.root_directory) / "run-locks" / f"{run_id}.lock"


def _hold_lock_file(path: Path) -> IO[str] | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # the disk has no locks
        file.close()
        return None
    return file


def is_lock_held(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool | None:
    """Whether a process holds the run's lock; None if that is unknown."""
    if not boot_id() or run.tags.get(BOOT_TAG) != boot_id():
        return None
    path = lock_file(instance, run.run_id)
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A file that was removed after it was opened belonged to a run that ended.
            return False if path.exists() and path.samefile(f"/proc/self/fd/{file.fileno()}") else None
    except BlockingIOError:
        return True
    except OSError:
        return None


def remove_locks(instance: dg.DagsterInstance, alive: Collection[str]) -> None:
    """Remove the lock files of ended runs that no process holds.

    Args:
        instance: where the runs are recorded.
        alive: the ids of the runs that have not ended.
    """
    for path in lock_file(instance, "").parent.glob("*.lock"):
        if path.stem not in alive:
            with suppress(OSError), path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)


@dataclass
class HeartbeatWatch:
    """The heartbeats that a watcher saw, and for how long each did not change.

    Attributes:
        seen: for each run id, the heartbeat, and the seconds of observation without a change.
        last_look: the time of the last observation, in seconds of the watcher's clock; None before the first.
    """

    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    last_look: float | None = None

    def find_silent(self, runs: Collection[dg.DagsterRun], now: float) -> set[str]:
        """Observe the heartbeats of runs. Returns the ids of the runs that have been silent for too long.

        Args:
            runs: runs that have not ended. Runs of older versions have no heartbeat and are never silent.
            now: the time, in seconds of the watcher's clock.
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
        """The watch in a sensor's cursor; a new watch if the cursor has none."""
        try:
            stored = json.loads(cursor or "")
            seen = {str(run_id): (str(beat), float(s)) for run_id, (beat, s) in stored["seen"].items()}
            return cls(seen, float(stored["looked"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()
