"""Ends runs whose process was killed. The lock and the heartbeat of a run are in `run_liveness`.

A killed process leaves its run "started" and its pool slots taken, unnoticed by Dagster's default launcher.
Each run therefore records its process, and each later run looks for dead ones. In the same space of process
ids the process itself is checked, elsewhere the lock or the heartbeat. Commits are safe without this module.
It only keeps a dead run from blocking its table for ever.
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

#: Seconds. A stepped clock changes the start time of a process that the kernel reports. No pid is used again
#: so soon after its first process started.
_START_TOLERANCE = 2.0

_UNFINISHED_STATUSES = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

#: The statuses of runs that have not ended: queued, or at work.
IN_FLIGHT_STATUSES = [dg.DagsterRunStatus.QUEUED, *_UNFINISHED_STATUSES]


def process_tags() -> dict[str, str]:
    """The run tags that identify this process."""
    process = psutil.Process()
    return {
        HOST_TAG: _host_id(),
        PID_TAG: str(process.pid),
        PROCESS_STARTED_TAG: f"{process.create_time():.2f}",
    }


def is_process_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process in a run's tags is known to have ended.

    False if that is unknown: the run has no tags yet, or ran on another machine or in another container.
    """
    return _is_local_process_gone(tags) or False


def is_run_dead(instance: dg.DagsterInstance, run: dg.DagsterRun, silent: Collection[str] = ()) -> bool:
    """Whether no process works on a run any more: by its process, else its lock, else its heartbeat.

    Args:
        instance: where the run is recorded.
        run: a run that was started.
        silent: the ids of the runs whose heartbeat has stopped, as far as a watcher knows.
    """
    if (is_gone := _is_local_process_gone(run.tags)) is not None:
        return is_gone
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
    """Mark runs whose process was killed as failed, and free their pool slots.

    A run that was being canceled is marked as canceled.

    Args:
        instance: where the runs are recorded.
        besides: the id of a run to leave alone: the caller's own.
        watch: the heartbeats that the caller saw in earlier calls. This call updates them.

    Returns:
        The ids of the runs that were ended or whose slots were freed.
    """
    ended = []
    unfinished = instance.get_runs(filters=dg.RunsFilter(statuses=_UNFINISHED_STATUSES))
    silent = watch.find_silent(unfinished, time.time()) if watch else set()
    for run in unfinished:
        if run.run_id == besides or not is_run_dead(instance, run, silent):
            continue
        _end_run(instance, run)
        ended.append(run.run_id)
    remove_locks(instance, {run.run_id for run in unfinished} - set(ended))
    return [*ended, *_free_slots(instance, set(ended), besides)]


def runs_at_work(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The runs that have started and not ended. Runs whose process was killed are ended first."""
    mark_dead_runs(instance)
    statuses = [s for s in _UNFINISHED_STATUSES if s != dg.DagsterRunStatus.NOT_STARTED]
    return list(instance.get_runs(filters=dg.RunsFilter(statuses=statuses)))


def _end_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    message = (
        f"The process of this run (pid {run.tags.get(PID_TAG, 'unknown')} on "
        f"{run.tags.get(HOST_TAG, 'an unknown host')}) was killed."
    )
    if run.status == dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message)
        return
    instance.report_run_failed(run, message)
    # The run's own process can no longer log this.
    logs.get_logger(__name__).error(
        "run failed",
        run_id=run.run_id,
        job=run.job_name,
        table=run.tags.get("k2/table"),
        partitions=logs.partitions_of_run(run.tags),
        snapshot=run.tags.get("k2/snapshot"),
        error=message,
    )


def _free_slots(instance: dg.DagsterInstance, ended: set[str], besides: str | None) -> list[str]:
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return []
    freed = []
    for run_id in storage.get_concurrency_run_ids() - {besides}:
        run = instance.get_run_by_id(run_id)
        # A run that a person marked as ended in the UI may have a process at work. It keeps its slot.
        if run is None or (run.is_finished and (run_id in ended or is_run_dead(instance, run))):
            storage.free_concurrency_slots_for_run(run_id)
            freed.append(run_id)
    return [run_id for run_id in freed if run_id not in ended]


def _host_id() -> str:
    """This machine and its space of process ids: containers may share a host name, but not process ids."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        space = ""
    return f"{socket.gethostname()} {space}".strip()


@dg.sensor(
    name="dead_runs",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process was killed, so that runs that wait for their table can start.",
)
def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """End dead runs. A queued run that waits for a dead run's pool never starts, so it cannot do this."""
    watch = HeartbeatWatch.from_cursor(context.cursor)
    ended = mark_dead_runs(context.instance, watch=watch)
    context.update_cursor(watch.to_cursor())
    return dg.SkipReason(
        f"Ended {len(ended)} runs: {', '.join(ended)}" if ended else "No run has lost its process."
    )
