"""Files that land are ingested: a sensor that sees them, and the job that it asks for.

What a landing file may hold is in `sources`; here is only which files, and when.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from k2_ohlcv.defs.ingest_files import DONE_TAG, INGEST_FILES, OP
from k2_ohlcv.defs.refreshes import pause
from k2_ohlcv.defs.runs import IN_FLIGHT
from k2_ohlcv.defs.trades import landing_files
from k2_ohlcv.settings import Settings

BATCH_TAG = "k2/landing"
#: So many files are one run; the others wait for the next look.
_MOST = 200


@dataclass(frozen=True)
class Seen:
    """A file as it was at the last look.

    Attributes:
        state: its size and the time of its last change.
        asked: whether it was asked for in that state.
    """

    state: str
    asked: bool = False


@dataclass(frozen=True)
class Memory:
    """What the sensor keeps from one look to the next.

    Attributes:
        files: by their paths in the landing folder.
        batch: the key of the batch that was asked for last, until it is known what became of it.
        pending: the files of that batch.
        attempt: how often it was lost: its run ended without having been through all of its files.
    """

    files: Mapping[str, Seen] = field(default_factory=dict)
    batch: str | None = None
    pending: tuple[str, ...] = ()
    attempt: int = 0

    @classmethod
    def of(cls, cursor: str | None) -> "Memory":
        """From a sensor's cursor."""
        if not cursor:
            return cls()
        kept = json.loads(cursor)
        files = {path: Seen(state, asked) for path, (state, asked) in kept["files"].items()}
        return cls(files, kept["batch"], tuple(kept["pending"]), kept["attempt"])

    def cursor(self) -> str:
        """As a sensor's cursor."""
        files = {path: (seen.state, seen.asked) for path, seen in self.files.items()}
        kept = {"files": files, "batch": self.batch, "pending": self.pending, "attempt": self.attempt}
        return json.dumps(kept)

    def at(self, there: Mapping[str, str]) -> "Memory":
        """After a look at the folder: what changed is not asked for any more."""
        known = {path: self.files.get(path) for path in there}
        files = {
            path: Seen(state, bool((seen := known[path]) and seen.asked and seen.state == state))
            for path, state in there.items()
        }
        return replace(self, files=files)

    def settled(self) -> "Memory":
        """The last batch is through."""
        return replace(self, batch=None, pending=(), attempt=0)

    def lost(self) -> "Memory":
        """The last batch is to be asked for again."""
        files = {
            p: replace(seen, asked=seen.asked and p not in self.pending) for p, seen in self.files.items()
        }
        return replace(self, files=files, batch=None, pending=(), attempt=self.attempt + 1)

    def asking(self, paths: Sequence[str]) -> "Memory":
        """These files are asked for."""
        states = [f"{path} {self.files[path].state}" for path in paths]
        digest = hashlib.sha256("\n".join(states).encode()).hexdigest()[:16]
        files = {**self.files, **{path: Seen(self.files[path].state, asked=True) for path in paths}}
        return replace(self, files=files, batch=f"landing:{digest}:{self.attempt}", pending=tuple(paths))


def states(landing: Path) -> dict[str, str]:
    """Every landing file with its size and the time of its last change."""
    found = {}
    for path in landing_files(landing):
        try:
            stat = path.stat()
        except FileNotFoundError:  # gone since it was listed
            continue
        found[path.relative_to(landing).as_posix()] = f"{stat.st_size}-{stat.st_mtime_ns}"
    return found


def build(tick: int) -> list[dg.SensorDefinition]:
    """The sensor; `tick` is the seconds between two looks."""

    @dg.sensor(
        name="landing_files",
        job_name=INGEST_FILES,
        minimum_interval_seconds=tick,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ingests files under landing/EXCHANGE/SYMBOL/ once they have stopped growing, and again "
        "when they change. A file that fails is not tried again until it changes.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        landing = Settings.read().landing
        there = states(landing) if landing.is_dir() else {}
        before = Memory.of(context.cursor)
        memory, waits = _after_batch(context.instance, before.at(there))
        still = [path for path, seen in before.files.items() if there.get(path) == seen.state]
        fresh = [path for path, seen in memory.files.items() if not seen.asked]
        ready = sorted(set(fresh).intersection(still))[:_MOST]
        if waits or not ready:
            said = waits or _said(fresh)
            return dg.SensorResult(skip_reason=said, cursor=memory.cursor())
        memory = memory.asking(ready)
        return dg.SensorResult(run_requests=[request(memory)], cursor=memory.cursor())

    return [sensor]


def request(memory: Memory) -> dg.RunRequest:
    """The run that ingests what is pending."""
    assert memory.batch is not None
    return dg.RunRequest(
        run_key=memory.batch,
        run_config={"ops": {OP: {"config": {"files": list(memory.pending)}}}},
        # What trades are there decides what there is to refresh: before all of that.
        tags={BATCH_TAG: memory.batch, "dagster/priority": "10"},
    )


def _after_batch(instance: dg.DagsterInstance, memory: Memory) -> tuple[Memory, str | None]:
    """What became of the last batch, and why nothing is to be asked for now, if that is so."""
    if memory.batch is None:
        return memory, None
    found = instance.get_run_records(filters=dg.RunsFilter(tags={BATCH_TAG: memory.batch}), limit=1)
    run = found[0].dagster_run if found else None
    if run and run.status in IN_FLIGHT:
        return memory, f"{len(memory.pending)} files are being ingested by run {run.run_id}."
    if run and DONE_TAG in run.tags:
        return memory.settled(), None
    ended = datetime.fromtimestamp(found[0].end_time, UTC) if found and found[0].end_time else None
    if run and ended and datetime.now(UTC) < (again := ended + pause(memory.attempt + 1)):
        return (
            memory,
            f"Run {run.run_id} did not get through its files: asked for again at {again:%H:%M:%S UTC}.",
        )
    return memory.lost(), None


def _said(fresh: Sequence[str]) -> str:
    if fresh:
        return f"{len(fresh)} files have come or changed since the last look: left until they stop."
    return "No file has come or changed."
