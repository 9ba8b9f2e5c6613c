"""Runs in this process: the jobs that the UI would run, recorded in the same instance."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2_ohlcv import logs
from k2_ohlcv.cli.pool_wait import PoolWait
from k2_ohlcv.domain.errors import K2Error, RunInterruptedError
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import Grain

if TYPE_CHECKING:
    import dagster as dg

#: So often a run that may be waiting for a pool looks whether the process that holds it is gone.
_DEAD_RUN_SECONDS = 10.0
#: The name of our code location, as in workspace.yaml.
_CODE_LOCATION = "k2_ohlcv"


class RunFailedError(K2Error):
    """A run ended in failure; the message says why and names the run."""


@dataclass(frozen=True)
class RunResult:
    """A run that succeeded.

    Attributes:
        run_id: its id in the instance.
        materialized: per table, each partition's metadata as plain values.
        checks: per table, the name of each check and whether it passed.
    """

    run_id: str
    materialized: dict[str, list[dict[str, object]]]
    checks: dict[str, dict[str, bool]]


def run_job(
    job: "dg.JobDefinition",
    instance: "dg.DagsterInstance",
    grain: Grain,
    span: Interval,
    tables: Sequence[str],
    *,
    config: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
) -> RunResult:
    """Run a job over the partitions of a span, in this process, and wait for it.

    Args:
        job: a job of the definitions.
        instance: where the run is recorded.
        grain: of the job's partitions.
        span: whole partitions, one or several in a row.
        tables: the assets of the job to compute; their checks run with them.
        config: of each of these assets; its defaults if None.
        tags: further tags of the run.

    Raises:
        RunFailedError: a step or a blocking check failed.
        RunInterruptedError: the process was told to stop, by INT or TERM.
    """
    import dagster as dg

    from k2_ohlcv.defs import dead_runs
    from k2_ohlcv.defs.failures import INTERACTIVE_TAG
    from k2_ohlcv.defs.run_liveness import HeartbeatWatch

    keys = [grain.key(partition) for partition in grain.partitions([span])]
    run_tags = {
        **(tags or {}),
        # What makes the UI list the runs under their jobs.
        ".dagster/repository": f"__repository__@{_CODE_LOCATION}",
        INTERACTIVE_TAG: "true",
        **dead_runs.process_tags(),
    }
    if len(keys) > 1:
        run_tags |= {
            "dagster/asset_partition_range_start": keys[0],
            "dagster/asset_partition_range_end": keys[-1],
        }
    watch = HeartbeatWatch()
    dead_runs.mark_dead_runs(instance, watch=watch)
    with _marking_dead_runs(
        lambda: dead_runs.mark_dead_runs(instance, watch=watch), PoolWait(instance, tables).report_holders
    ):
        result = job.execute_in_process(
            instance=instance,
            partition_key=keys[0] if len(keys) == 1 else None,
            asset_selection=[dg.AssetKey(table) for table in tables],
            run_config={"ops": {table: {"config": config} for table in tables}} if config else None,
            tags=run_tags,
            raise_on_error=False,
        )
    if _is_interrupted(result):
        raise RunInterruptedError(
            f"interrupted; what was committed stays, and the same command does the rest (run {result.run_id})"
        )
    if not result.success:
        raise RunFailedError(_reason(result))
    return RunResult(result.run_id, _materialized(result), _checks(result))


@contextmanager
def _marking_dead_runs(*looks: Callable[[], object]) -> Iterator[None]:
    """Look again and again while inside: who holds the pool that a step waits for may die at any time."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(_DEAD_RUN_SECONDS):
            for each in looks:
                each()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _materialized(result: "dg.ExecuteInProcessResult") -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for event in result.get_asset_materialization_events():
        assert event.asset_key is not None
        metadata = event.step_materialization_data.materialization.metadata
        found.setdefault(event.asset_key.to_user_string(), []).append(
            {name: getattr(value, "value", None) for name, value in metadata.items()}
        )
    return found


def _checks(result: "dg.ExecuteInProcessResult") -> dict[str, dict[str, bool]]:
    from k2_ohlcv.defs.retention_checks import RETENTION_LIMIT_CHECK

    found: dict[str, dict[str, bool]] = {}
    for check in result.get_asset_check_evaluations():
        if check.check_name == RETENTION_LIMIT_CHECK:
            continue  # it says nothing of the candles that this run made
        found.setdefault(check.asset_key.to_user_string(), {})[check.check_name] = check.passed
    return found


def _is_interrupted(result: "dg.ExecuteInProcessResult") -> bool:
    from dagster._core.events import RunFailureReason

    return any(
        event.job_failure_data.failure_reason is RunFailureReason.UNEXPECTED_TERMINATION
        for event in result.all_events
        if event.is_run_failure
    )


def _reason(result: "dg.ExecuteInProcessResult") -> str:
    failed = [
        f"{check.asset_key.to_user_string()}: check {check.check_name} failed: {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]
    for event in result.all_events:
        if event.is_step_failure and not (failed and event.step_key and event.step_key.startswith("check_")):
            failed.append(f"{event.step_key}: {logs.failure_message(event)}")
    if not failed:
        failed = [f"{logs.failure_message(e) or e.message}" for e in result.all_events if e.is_run_failure]
    return f"{'; '.join(failed) or 'the run did not succeed'} (run {result.run_id})"
