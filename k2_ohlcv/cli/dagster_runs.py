"""Runs Dagster jobs in this process. The instance records them like runs from the UI."""

import threading
from collections.abc import Iterator, Mapping, Sequence
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

#: How often a run that may wait for a pool looks for dead runs.
_DEAD_RUN_SECONDS = 10.0
#: The name of the code location, as in workspace.yaml.
_CODE_LOCATION = "k2_ohlcv"


class RunFailedError(K2Error):
    """A run failed. The message has the reason and the run's id."""


@dataclass(frozen=True)
class RunResult:
    """A run that succeeded.

    Attributes:
        run_id: the run's id in the instance.
        materialized: the metadata of each materialized partition, by table.
        checks: whether each check passed, by table and name.
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
    """Run a job over the partitions of a span, in this process, and wait for its end.

    Args:
        job: a job of the definitions.
        instance: where the run is recorded.
        grain: the grain of the job's partitions.
        span: one or several adjacent partitions.
        tables: the assets of the job to compute. Their checks run too.
        config: the config of each of these assets; None is their defaults.
        tags: further tags of the run.

    Raises:
        RunFailedError: a step or a blocking check failed.
        RunInterruptedError: the process was told to stop, by INT or TERM.
    """
    import dagster as dg

    keys = [grain.key(partition) for partition in grain.partitions([span])]
    with _unblocked_pools(instance, tables):
        result = job.execute_in_process(
            instance=instance,
            partition_key=keys[0] if len(keys) == 1 else None,
            asset_selection=[dg.AssetKey(table) for table in tables],
            run_config={"ops": {table: {"config": config} for table in tables}} if config else None,
            tags=_run_tags(keys, tags or {}),
            raise_on_error=False,
        )
    _reject_failure(result)
    return RunResult(result.run_id, _materialized(result), _checks(result))


def _run_tags(keys: Sequence[str], tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run over some partitions, and those that name this process."""
    from k2_ohlcv.defs import dead_runs
    from k2_ohlcv.defs.failures import INTERACTIVE_TAG

    run_tags = {
        **tags,
        # The UI lists runs with this tag under their jobs.
        ".dagster/repository": f"__repository__@{_CODE_LOCATION}",
        INTERACTIVE_TAG: "true",
        **dead_runs.process_tags(),
    }
    if len(keys) > 1:
        run_tags |= {
            "dagster/asset_partition_range_start": keys[0],
            "dagster/asset_partition_range_end": keys[-1],
        }
    return run_tags


@contextmanager
def _unblocked_pools(instance: "dg.DagsterInstance", tables: Sequence[str]) -> Iterator[None]:
    """End dead runs now and every few seconds, and report other runs that hold the pools of the tables.

    A process that holds the pool for which a step of this run waits may be killed at any time.
    """
    from k2_ohlcv.defs.dead_runs import mark_dead_runs
    from k2_ohlcv.defs.run_liveness import HeartbeatWatch

    watch, pools = HeartbeatWatch(), PoolWait(instance, tables)
    mark_dead_runs(instance, watch=watch)
    done = threading.Event()

    def poll() -> None:
        while not done.wait(_DEAD_RUN_SECONDS):
            mark_dead_runs(instance, watch=watch)
            pools.report_holders()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _materialized(result: "dg.ExecuteInProcessResult") -> dict[str, list[dict[str, object]]]:
    by_table: dict[str, list[dict[str, object]]] = {}
    for event in result.get_asset_materialization_events():
        assert event.asset_key is not None
        metadata = event.step_materialization_data.materialization.metadata
        by_table.setdefault(event.asset_key.to_user_string(), []).append(
            {name: getattr(value, "value", None) for name, value in metadata.items()}
        )
    return by_table


def _checks(result: "dg.ExecuteInProcessResult") -> dict[str, dict[str, bool]]:
    from k2_ohlcv.defs.retention_checks import RETENTION_LIMIT_CHECK

    by_table: dict[str, dict[str, bool]] = {}
    for check in result.get_asset_check_evaluations():
        if check.check_name == RETENTION_LIMIT_CHECK:
            continue  # does not check the candles of this run
        by_table.setdefault(check.asset_key.to_user_string(), {})[check.check_name] = check.passed
    return by_table


def _reject_failure(result: "dg.ExecuteInProcessResult") -> None:
    if _is_interrupted(result):
        raise RunInterruptedError(
            f"interrupted; what was committed stays, and the same command does the rest (run {result.run_id})"
        )
    if not result.success:
        raise RunFailedError(_reason(result))


def _is_interrupted(result: "dg.ExecuteInProcessResult") -> bool:
    from dagster._core.events import RunFailureReason

    return any(
        event.job_failure_data.failure_reason is RunFailureReason.UNEXPECTED_TERMINATION
        for event in result.all_events
        if event.is_run_failure
    )


def _reason(result: "dg.ExecuteInProcessResult") -> str:
    reasons = [
        f"{check.asset_key.to_user_string()}: check {check.check_name} failed: {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]
    for event in result.all_events:
        is_of_check = event.step_key is not None and event.step_key.startswith("check_")
        if event.is_step_failure and not (reasons and is_of_check):
            reasons.append(f"{event.step_key}: {logs.failure_message(event)}")
    if not reasons:
        reasons = [f"{logs.failure_message(e) or e.message}" for e in result.all_events if e.is_run_failure]
    return f"{'; '.join(reasons) or 'the run did not succeed'} (run {result.run_id})"
