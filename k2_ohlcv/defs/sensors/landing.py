"""Files that land are ingested: a sensor that sees them, and the job that it asks for.

What a landing file may hold is in `sources`; here is only which files, and when.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import dagster as dg

from k2_ohlcv.defs.dead_runs import IN_FLIGHT_STATUSES
from k2_ohlcv.defs.ingest_job import INGEST_FILES_JOB, INGEST_OP, LANDING_DONE_TAG
from k2_ohlcv.defs.sensors.refresh import retry_delay
from k2_ohlcv.settings import Settings
from k2_ohlcv.sources.landing_folder import is_unterminated, list_files

BATCH_TAG = "k2/landing"
#: So many files are one run; the others wait for the next look.
_MAX_FILES = 200
#: A file whose last line has no end of line may be being written for so long.
SETTLE_SECONDS = 600
# What the state of a file that is not to be read begins with.
_REFUSED_STATE = "refused: "


@dataclass(frozen=True)
class FileState:
    """A file as it was at the last look.

    Attributes:
        state: its size and the time of its last change.
        asked: whether it was asked for in that state.
        due: where its last line has no end: the moment (seconds since the epoch) from which that is reported,
            unless the file has changed by then.
    """

    state: str
    asked: bool = False
    due: float | None = None

    @property
    def refused(self) -> str | None:
        """Why it is not to be read at all, where that is so."""
        return self.state.removeprefix(_REFUSED_STATE) if self.state.startswith(_REFUSED_STATE) else None


@dataclass(frozen=True)
class LandingCursor:
    """What the sensor keeps from one look to the next.

    Attributes:
        files: by their paths in the landing folder.
        batch: the key of the batch that was asked for last, until it is known what became of it.
        pending: the files of that batch.
        attempt: how often it was lost: its run ended without having been through all of its files.
    """

    files: Mapping[str, FileState] = field(default_factory=dict)
    batch: str | None = None
    pending: tuple[str, ...] = ()
    attempt: int = 0

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "LandingCursor":
        """From a sensor's cursor."""
        if not cursor:
            return cls()
        kept = json.loads(cursor)
        files = {path: FileState(*seen) for path, seen in kept["files"].items()}
        return cls(files, kept["batch"], tuple(kept["pending"]), kept["attempt"])

    def to_cursor(self) -> str:
        """As a sensor's cursor."""
        files = {path: astuple(seen) for path, seen in self.files.items()}
        kept = {"files": files, "batch": self.batch, "pending": self.pending, "attempt": self.attempt}
        return json.dumps(kept)

    def update(self, there: Mapping[str, str]) -> "LandingCursor":
        """After a look at the folder: what changed is not asked for any more."""
        known = {path: seen for path, seen in self.files.items() if there.get(path) == seen.state}
        return replace(self, files={path: known.get(path, FileState(state)) for path, state in there.items()})

    def readable_files(self, paths: Sequence[str]) -> list[str]:
        """Those of some files that are not refused."""
        return [path for path in paths if not self.files[path].refused]

    def settled_files(self) -> "LandingCursor":
        """The last batch is through."""
        return replace(self, batch=None, pending=(), attempt=0)

    def lost_files(self) -> "LandingCursor":
        """The last batch is to be asked for again."""
        files = {p: FileState(seen.state) if p in self.pending else seen for p, seen in self.files.items()}
        return replace(self, files=files, batch=None, pending=(), attempt=self.attempt + 1)

    def mark_requested(
        self,
        paths: Sequence[str],
        due: Mapping[str, float] = MappingProxyType({}),
        settled: Sequence[str] = (),
    ) -> "LandingCursor":
        """These files are asked for.

        Args:
            paths: the files.
            due: those whose last line has no end, and from when that is reported.
            settled: those for which that is reported now.
        """
        states = [f"{path} {self.files[path].state}{' settled' * (path in settled)}" for path in paths]
        digest = hashlib.sha256("\n".join(states).encode()).hexdigest()[:16]
        asked = {path: FileState(self.files[path].state, asked=True, due=due.get(path)) for path in paths}
        batch = f"landing:{digest}:{self.attempt}"
        return replace(self, files={**self.files, **asked}, batch=batch, pending=tuple(paths))


def read_file_states(landing: Path) -> dict[str, str]:
    """Every landing file with its size and the time of its last change; for one that is refused, why."""
    listing = list_files(landing)
    found = {}
    for path in listing.files:
        name = path.relative_to(landing).as_posix()
        try:
            stat = path.stat()
        except FileNotFoundError:  # gone since it was listed
            continue
        except OSError as error:
            found[name] = f"{_REFUSED_STATE}it cannot be looked at: {error.strerror}"
            continue
        found[name] = f"{stat.st_size}-{stat.st_mtime_ns}"
    return {**found, **{name: _REFUSED_STATE + reason for name, reason in listing.rejected.items()}}


def build_landing_sensor(tick: int) -> list[dg.SensorDefinition]:
    """The sensor; `tick` is the seconds between two looks."""

    @dg.sensor(
        name="landing_files",
        job_name=INGEST_FILES_JOB,
        minimum_interval_seconds=tick,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ingests files under landing/EXCHANGE/SYMBOL/ once they have stopped growing, and again "
        "when they change. A file that fails is not tried again until it changes.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        landing = Settings.from_environ().landing
        there = read_file_states(landing)
        before = LandingCursor.from_cursor(context.cursor)
        memory, waits = _check_last_batch(context.instance, before.update(there))
        still = [path for path, seen in before.files.items() if there.get(path) == seen.state]
        fresh = [path for path, seen in memory.files.items() if not seen.asked]
        now = time.time()
        due = [path for path, seen in memory.files.items() if seen.due is not None and seen.due <= now]
        ready = sorted({*fresh}.intersection(still).union(due))[:_MAX_FILES]
        if waits or not ready:
            said = waits or _summary_text(fresh)
            return dg.SensorResult(skip_reason=said, cursor=memory.to_cursor())
        settled = sorted(set(due).intersection(ready))
        open_ended = [
            p for p in memory.readable_files(ready) if p not in settled and is_unterminated(landing / p)
        ]
        memory = memory.mark_requested(ready, dict.fromkeys(open_ended, now + SETTLE_SECONDS), settled)
        return dg.SensorResult(run_requests=[build_run_request(memory, settled)], cursor=memory.to_cursor())

    return [sensor]


def build_run_request(memory: LandingCursor, settled: Sequence[str] = ()) -> dg.RunRequest:
    """The run that ingests what is pending, and reports what is refused.

    Args:
        memory: what is pending.
        settled: those of the pending files whose missing end of line is to be reported.
    """
    assert memory.batch is not None
    reasons = {path: memory.files[path].refused for path in memory.pending}
    config = {
        "files": memory.readable_files(memory.pending),
        "settled": list(settled),
        "refused": [f"{path}: {reason}" for path, reason in reasons.items() if reason],
    }
    return dg.RunRequest(
        run_key=memory.batch,
        run_config={"ops": {INGEST_OP: {"config": config}}},
        # What trades are there decides what there is to refresh: before all of that.
        tags={BATCH_TAG: memory.batch, "dagster/priority": "10"},
    )


def _check_last_batch(
    instance: dg.DagsterInstance, memory: LandingCursor
) -> tuple[LandingCursor, str | None]:
    """What became of the last batch, and why nothing is to be asked for now, if that is so."""
    if memory.batch is None:
        return memory, None
    found = instance.get_run_records(filters=dg.RunsFilter(tags={BATCH_TAG: memory.batch}), limit=1)
    run = found[0].dagster_run if found else None
    if run and run.status in IN_FLIGHT_STATUSES:
        return memory, f"{len(memory.pending)} files are being ingested by run {run.run_id}."
    if run and LANDING_DONE_TAG in run.tags:
        return memory.settled_files(), None
    ended = datetime.fromtimestamp(found[0].end_time, UTC) if found and found[0].end_time else None
    if run and ended and datetime.now(UTC) < (again := ended + retry_delay(memory.attempt + 1)):
        return (
            memory,
            f"Run {run.run_id} did not get through its files: asked for again at {again:%H:%M:%S UTC}.",
        )
    return memory.lost_files(), None


def _summary_text(fresh: Sequence[str]) -> str:
    if fresh:
        return f"{len(fresh)} files have come or changed since the last look: left until they stop."
    return "No file has come or changed."
