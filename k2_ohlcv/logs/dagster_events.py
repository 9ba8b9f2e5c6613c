"""Converts a Dagster run and its events into fields of a log line."""

import logging
from collections.abc import Mapping
from typing import Any

#: The Dagster events that are logged. The other events (inputs, outputs) add no information.
_EVENTS = {
    "PIPELINE_START": "run started",
    "PIPELINE_SUCCESS": "run succeeded",
    "PIPELINE_FAILURE": "run failed",
    "PIPELINE_CANCELED": "run canceled",
    "STEP_START": "step started",
    "STEP_SUCCESS": "step succeeded",
    "STEP_FAILURE": "step failed",
    "STEP_UP_FOR_RETRY": "step waits to be retried",
    "STEP_CONCURRENCY_BLOCKED": "step waits for its pool",
    "ASSET_CHECK_EVALUATION": "check evaluated",
}
_FAILURES = {"PIPELINE_FAILURE", "STEP_FAILURE"}

#: The current run of this process (at most one) -> its trades snapshot.
_run_snapshots: dict[str, int | None] = {}


def set_run_snapshot(run_id: str, snapshot: int | None) -> None:
    """Set the trades snapshot of the current run. Log lines of its failures have the snapshot."""
    _run_snapshots.clear()
    _run_snapshots[run_id] = snapshot


def event_level(kind: str) -> int:
    """The log level of a Dagster event: error for failures, info for logged events, debug for others."""
    if kind in _FAILURES:
        return logging.ERROR
    return logging.INFO if kind in _EVENTS else logging.DEBUG


def run_fields(meta: Mapping[str, Any]) -> dict[str, object]:
    """The fields of a run: id, job, step, table and partitions."""
    tags: Mapping[str, str] = meta.get("job_tags") or {}
    fields: dict[str, object] = {"run_id": meta.get("run_id"), "job": meta.get("job_name")}
    if partitions := partitions_of_run(tags):
        fields["partitions"] = partitions
    if step := meta.get("step_key"):
        # Most steps are named after their table. Runs of other steps have a tag.
        fields |= {"step": step, "table": tags.get("k2/table") or step.removeprefix("check_")}
    return {name: value for name, value in fields.items() if value is not None}


def partitions_of_run(tags: Mapping[str, str]) -> str | None:
    """The partitions in a run's tags: a key, or the first and last key of a range."""
    first = tags.get("dagster/asset_partition_range_start")
    last = tags.get("dagster/asset_partition_range_end")
    if first and last:
        return first if first == last else f"{first}...{last}"
    return tags.get("dagster/partition")


def event_fields(event: Any, meta: Mapping[str, Any]) -> dict[str, object]:
    """The fields of an event: message, level, and details of its type."""
    kind = event.event_type_value
    level = logging.getLevelName(event_level(kind)).lower()
    fields: dict[str, object] = {"event": _EVENTS.get(kind, event.message or kind), "level": level}
    if kind == "STEP_SUCCESS":
        fields["seconds"] = round(event.step_success_data.duration_ms / 1000, 3)
    elif kind == "ASSET_CHECK_EVALUATION":
        evaluation = event.asset_check_evaluation_data
        fields |= {
            "table": evaluation.asset_key.to_user_string(),
            "check": evaluation.check_name,
            "passed": evaluation.passed,
        }
    elif kind in _FAILURES:
        fields |= _failure_fields(event, meta)
    return fields


def _failure_fields(event: Any, meta: Mapping[str, Any]) -> dict[str, object]:
    """The fields of a failure: the table, the trades snapshot of the run, and the error."""
    tags: Mapping[str, str] = meta.get("job_tags") or {}
    # The event of a failed run does not have the reason. The event of its failed step does.
    step = getattr(event.event_specific_data, "first_step_failure_event", None)
    error = failure_message(event) or (step and failure_message(step)) or event.message
    fields: dict[str, object] = {"error": error}
    if table := tags.get("k2/table"):
        fields["table"] = table
    elif step is not None and step.step_key:
        fields["table"] = step.step_key.removeprefix("check_")
    tag = tags.get("k2/snapshot", "")
    snapshot = _run_snapshots.get(str(meta.get("run_id"))) or (int(tag) if tag.isdecimal() else None)
    return {**fields, "snapshot": snapshot}


def failure_message(event: Any) -> str | None:
    """The error message of a failed step or run: the failure's description, else the original error."""
    data = event.event_specific_data
    failure = getattr(data, "user_failure_data", None)
    if failure is not None and failure.description:
        return str(failure.description)
    error = getattr(data, "error", None)
    while error is not None and error.cause is not None:
        error = error.cause
    return str(error.message).strip() if error is not None else None
