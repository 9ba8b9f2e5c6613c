"""The sensor of landing files: which files are ingested, and when. Reading them is in `sources`.

The job that ingests them is in `ingest_job`.
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
#: Files of one run. The others wait for the next evaluation of the sensor.
_MAX_FILES = 200
#: For so long a file whose last line has no end of line may still be growing.
SETTLE_SECONDS = 600
# Prefix of the state of a file that must not be read.
_REFUSED_STATE = "refused: "


@dataclass(frozen=True)
class FileState:
    """A file at the last evaluation of the sensor.

    Attributes:
        state: the file's size and the time of its last change.
        asked: whether a run was requested for this state.
        due: for a file without a final end of line, when to report that, in seconds since the epoch. A
            change of the file cancels the report.
    """

    state: str
    asked: bool = False
    due: float | None = None

    @property
    def refused(self) -> str | None:
        """Why the file must not be read; None if it may be."""
        return self.state.removeprefix(_REFUSED_STATE) if self.state.startswith(_REFUSED_STATE) else None


@dataclass(frozen=True)
class LandingCursor:
    """The sensor's state between two evaluations.

    Attributes:
        files: the files by their paths in the landing folder.
        batch: the run key of the last requested batch, until its outcome is known.
        pending: the files of that batch.
        attempt: how many runs of the batch ended before they had read all of its files.
    """

    files: Mapping[str, FileState] = field(default_factory=dict)
    batch: str | None = None
    pending: tuple[str, ...] = ()
    attempt: int = 0

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "LandingCursor":
        """Parse a sensor's cursor."""
        if not cursor:
            return cls()
        stored = json.loads(cursor)
        files = {path: FileState(*state) for path, state in stored["files"].items()}
        return cls(files, stored["batch"], tuple(stored["pending"]), stored["attempt"])

    def to_cursor(self) -> str:
        """Write a sensor's cursor."""
        files = {path: astuple(file) for path, file in self.files.items()}
        values = {"files": files, "batch": self.batch, "pending": self.pending, "attempt": self.attempt}
        return json.dumps(values)

    def update(self, states: Mapping[str, str]) -> "LandingCursor":
        """The cursor for the files in the folder now. A changed file counts as not requested."""
        known = {path: file for path, file in self.files.items() if states.get(path) == file.state}
        files = {path: known.get(path, FileState(state)) for path, state in states.items()}
        return replace(self, files=files)

    def readable_files(self, paths: Sequence[str]) -> list[str]:
        """The paths whose files may be read."""
        return [path for path in paths if not self.files[path].refused]

    def settled_files(self) -> "LandingCursor":
        """The cursor after the last batch has been read to its end."""
        return replace(self, batch=None, pending=(), attempt=0)

    def lost_files(self) -> "LandingCursor":
        """The cursor after the last batch was lost: its files are requested again."""
        files = {p: FileState(file.state) if p in self.pending else file for p, file in self.files.items()}
        return replace(self, files=files, batch=None, pending=(), attempt=self.attempt + 1)

    def mark_requested(
        self,
        paths: Sequence[str],
        due: Mapping[str, float] = MappingProxyType({}),
        settled: Sequence[str] = (),
    ) -> "LandingCursor":
        """The cursor after a run was requested for some files.

        Args:
            paths: the files.
            due: when to report a file that has no final end of line, by path.
            settled: files for which the run reports that now.
        """
        states = [f"{path} {self.files[path].state}{' settled' * (path in settled)}" for path in paths]
        digest = hashlib.sha256("\n".join(states).encode()).hexdigest()[:16]
        requested = {path: FileState(self.files[path].state, asked=True, due=due.get(path)) for path in paths}
        batch = f"landing:{digest}:{self.attempt}"
        return replace(self, files={**self.files, **requested}, batch=batch, pending=tuple(paths))


def read_file_states(landing: Path) -> dict[str, str]:
    """The state of each landing file: size and time of last change, or why it must not be read."""
    listing = list_files(landing)
    states = {}
    for path in listing.files:
        name = path.relative_to(landing).as_posix()
        try:
            stat = path.stat()
        except FileNotFoundError:  # removed since it was listed
            continue
        except OSError as error:
            states[name] = f"{_REFUSED_STATE}its size cannot be read: {error.strerror}"
            continue
        states[name] = f"{stat.st_size}-{stat.st_mtime_ns}"
    return {**states, **{name: _REFUSED_STATE + reason for name, reason in listing.rejected.items()}}


def build_landing_sensor(interval_seconds: int) -> list[dg.SensorDefinition]:
    """The sensor, evaluated every `interval_seconds`."""

    @dg.sensor(
        name="landing_files",
        job_name=INGEST_FILES_JOB,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ingests files under landing/EXCHANGE/SYMBOL/ once they have stopped growing, and again "
        "when they change. A file that failed is tried again only after it changes.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        landing = Settings.from_environ().landing
        states = read_file_states(landing)
        before = LandingCursor.from_cursor(context.cursor)
        cursor, waits_for = _check_last_batch(context.instance, before.update(states))
        unchanged = [path for path, file in before.files.items() if states.get(path) == file.state]
        new = [path for path, file in cursor.files.items() if not file.asked]
        now = time.time()
        due = [path for path, file in cursor.files.items() if file.due is not None and file.due <= now]
        ready = sorted({*new}.intersection(unchanged).union(due))[:_MAX_FILES]
        if waits_for or not ready:
            reason = waits_for or _summary_text(new)
            return dg.SensorResult(skip_reason=reason, cursor=cursor.to_cursor())
        settled = sorted(set(due).intersection(ready))
        unterminated = [
            p for p in cursor.readable_files(ready) if p not in settled and is_unterminated(landing / p)
        ]
        cursor = cursor.mark_requested(ready, dict.fromkeys(unterminated, now + SETTLE_SECONDS), settled)
        return dg.SensorResult(run_requests=[build_run_request(cursor, settled)], cursor=cursor.to_cursor())

    return [sensor]


def build_run_request(cursor: LandingCursor, settled: Sequence[str] = ()) -> dg.RunRequest:
    """The run that ingests the pending files, and reports those that must not be read.

    Args:
        cursor: the pending files.
        settled: pending files whose missing end of line the run reports.
    """
    assert cursor.batch is not None
    reasons = {path: cursor.files[path].refused for path in cursor.pending}
    config = {
        "files": cursor.readable_files(cursor.pending),
        "settled": list(settled),
        "refused": [f"{path}: {reason}" for path, reason in reasons.items() if reason],
    }
    return dg.RunRequest(
        run_key=cursor.batch,
        run_config={"ops": {INGEST_OP: {"config": config}}},
        # Refreshes depend on trades, so ingestion runs before them.
        tags={BATCH_TAG: cursor.batch, "dagster/priority": "10"},
    )


def _check_last_batch(
    instance: dg.DagsterInstance, cursor: LandingCursor
) -> tuple[LandingCursor, str | None]:
    """Update the cursor by the outcome of the last batch. The text says why the sensor must wait, if so."""
    if cursor.batch is None:
        return cursor, None
    records = instance.get_run_records(filters=dg.RunsFilter(tags={BATCH_TAG: cursor.batch}), limit=1)
    run = records[0].dagster_run if records else None
    if run and run.status in IN_FLIGHT_STATUSES:
        return cursor, f"Run {run.run_id} is ingesting {len(cursor.pending)} files."
    if run and LANDING_DONE_TAG in run.tags:
        return cursor.settled_files(), None
    ended = datetime.fromtimestamp(records[0].end_time, UTC) if records and records[0].end_time else None
    if run and ended and datetime.now(UTC) < (again := ended + retry_delay(cursor.attempt + 1)):
        return (
            cursor,
            f"Run {run.run_id} ended before it had read all of its files. They are requested again at "
            f"{again:%H:%M:%S UTC}.",
        )
    return cursor.lost_files(), None


def _summary_text(new: Sequence[str]) -> str:
    if new:
        return f"{len(new)} files are new or changed. They are ingested when they have stopped growing."
    return "No file is new or changed."
