"""Runs whose process is gone: who holds a run, how that is found out, and how it is ended.

A killed process leaves its run "started" and its pool slots taken, and Dagster's default launcher can't tell.
So each run records the process that works on it, and whoever comes next looks: in the same space of process
ids for the process, elsewhere for the run's `signs_of_life`.
Commits are safe without any of this; it only keeps a dead run from blocking its table for ever.
"""

import socket
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import dagster as dg
import psutil  # type: ignore[import-untyped] # ships none

from k2_ohlcv import logs
from k2_ohlcv.defs.run_liveness import HeartbeatWatch, is_lock_held, remove_locks

HOST_TAG = "k2/host"
PID_TAG = "k2/pid"
PROCESS_STARTED_TAG = "k2/process-started"

#: Where a clock is stepped, the kernel's start time of a process moves by as much; a pid that is used again
#: within this many seconds of the first process's start is not a thing that happens.
_START_TOLERANCE = 2.0

_UNFINISHED_STATUSES = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

#: What is not over: queued, or at work.
IN_FLIGHT_STATUSES = [dg.DagsterRunStatus.QUEUED, *_UNFINISHED_STATUSES]


def process_tags() -> dict[str, str]:
    """The run tags that say which process this is."""
    process = psutil.Process()
    return {
        HOST_TAG: _host_id(),
        PID_TAG: str(process.pid),
        PROCESS_STARTED_TAG: f"{process.create_time():.2f}",
    }


def is_process_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process that a run's tags name is known to be gone.

    False where it can't be known: no tags yet, or another machine (or container) than this one.
    """
    return _is_local_process_gone(tags) or False


def is_run_dead(instance: dg.DagsterInstance, run: dg.DagsterRun, silent: Collection[str] = ()) -> bool:
    """Whether nobody works on a run any more, by the first of its signs that tells.

    Args:
        instance: where the run is recorded.
        run: a run that was started.
        silent: the ids of the runs whose heartbeat has stopped, as far as somebody has watched.
    """
    if (gone := _is_local_process_gone(run.tags)) is not None:
        return gone
    if (held := is_lock_held(instance, run)) is not None:
        return not held
    return run.run_id in silent


def _is_local_process_gone(tags: Mapping[str, str]) -> bool | None:
    if tags.get(HOST_TAG) != _host_id() or not tags.get(PID_TAG, "").isdecimal():
        return None
    try:
        process = psutil.Process(int(tags[PID_TAG]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return bool(abs(process.create_time() - float(tags[PROCESS_STARTED_TAG])) > _START_TOLERANCE)
    except psutil.NoSuchProcess:
        return True


def mark_dead_runs(
    instance: dg.DagsterInstance, *, besides: str | None = None, watch: HeartbeatWatch | None = None
) -> list[str]:
    """Mark the runs whose process is gone as failed (canceled, if that was under way), free their pool slots.

    Args:
        instance: where the runs are recorded.
        besides: the id of a run to leave alone: the caller's own.
        watch: what the caller, who comes again and again, has seen of heartbeats; it is brought up to date.

    Returns:
        The ids of the runs that were ended or whose slots were freed.
    """
    ended = []
    unfinished = instance.get_runs(filters=dg.RunsFilter(statuses=_UNFINISHED_STATUSES))
    silent = watch.find_silent(unfinished, time.time()) if watch else set()
    for run in unfinished:
        if run.run_id == besides or not is_run_dead(instance, run, silent):
            continue
        message = (
            f"The process of this run (pid {run.tags.get(PID_TAG, 'unknown')} on "
            f"{run.tags.get(HOST_TAG, 'an unknown host')}) is gone: it was killed."
        )
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_run_failed(run, message)
            # Its own process can no longer say so.
            logs.get_logger(__name__).error(
                "run failed",
                run_id=run.run_id,
                job=run.job_name,
                table=run.tags.get("k2/table"),
                partitions=logs.partitions_of_run(run.tags),
                snapshot=run.tags.get("k2/snapshot"),
                error=message,
            )
        ended.append(run.run_id)
    remove_locks(instance, {run.run_id for run in unfinished} - set(ended))
    return [*ended, *_free_slots(instance, set(ended), besides)]


def _free_slots(instance: dg.DagsterInstance, ended: set[str], besides: str | None) -> list[str]:
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return []
    freed = []
    for run_id in storage.get_concurrency_run_ids() - {besides}:
        run = instance.get_run_by_id(run_id)
        # A run marked as ended from the UI may have a process that is still at work: it keeps its slot.
        if run is None or (run.is_finished and (run_id in ended or is_run_dead(instance, run))):
            storage.free_concurrency_slots_for_run(run_id)
            freed.append(run_id)
    return [run_id for run_id in freed if run_id not in ended]


def _host_id() -> str:
    """This machine, and in it this space of process ids: containers may share a host name but not pids."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        space = ""
    return f"{socket.gethostname()} {space}".strip()


@dg.sensor(
    name="dead_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process was killed, so that what waits for their table can go on.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """A queued run that waits for a dead one's pool never starts, so it can't look for itself."""
    watch = HeartbeatWatch.from_cursor(context.cursor)
    ended = mark_dead_runs(context.instance, watch=watch)
    context.update_cursor(watch.to_cursor())
    return dg.SkipReason(
        f"Ended {len(ended)}: {', '.join(ended)}" if ended else "No run has lost its process."
    )
