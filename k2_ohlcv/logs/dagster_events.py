"""What Dagster knows of a run and its events, as fields of a log line."""

import logging
from collections.abc import Mapping
from typing import Any

#: Dagster's events that get a line; the others (inputs, outputs, handled results) say nothing more.
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

#: The run that this process works on, one at a time, and its trades snapshot.
_run_snapshots: dict[str, int | None] = {}


def set_run_snapshot(run_id: str, snapshot: int | None) -> None:
    """Say which trades snapshot a run of this process works from, for the lines of its failures."""
    _run_snapshots.clear()
    _run_snapshots[run_id] = snapshot


def event_level(kind: str) -> int:
    """The level of a Dagster event: failures are errors, and events without a line of their own are debug."""
    if kind in _FAILURES:
        return logging.ERROR
    return logging.INFO if kind in _EVENTS else logging.DEBUG


def run_fields(meta: Mapping[str, Any]) -> dict[str, object]:
    """The run, its job, its step and its partitions, as fields of a line."""
    tags: Mapping[str, str] = meta.get("job_tags") or {}
    fields: dict[str, object] = {"run_id": meta.get("run_id"), "job": meta.get("job_name")}
    if partitions := partitions_of_run(tags):
        fields["partitions"] = partitions
    if step := meta.get("step_key"):
        # Most steps have the names of their tables; the others' runs have a tag.
        fields |= {"step": step, "table": tags.get("k2/table") or step.removeprefix("check_")}
    return {name: value for name, value in fields.items() if value is not None}


def partitions_of_run(tags: Mapping[str, str]) -> str | None:
    """The partitions that a run's tags name: a key, or the first and the last one of a range."""
    first = tags.get("dagster/asset_partition_range_start")
    last = tags.get("dagster/asset_partition_range_end")
    if first and last:
        return first if first == last else f"{first}...{last}"
    return tags.get("dagster/partition")


def event_fields(event: Any, meta: Mapping[str, Any]) -> dict[str, object]:
    """What an event says, as fields of a line."""
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
    """What failed: the table, the trades snapshot that was to be reached, and why."""
    tags: Mapping[str, str] = meta.get("job_tags") or {}
    # A run fails because a step of it did, and only that one knows the reason.
    step = getattr(event.event_specific_data, "first_step_failure_event", None)
    error = failure_message(event) or (step and failure_message(step)) or event.message
    fields: dict[str, object] = {"error": error}
    if table := tags.get("k2/table"):
        fields["table"] = table
    elif step is not None and step.step_key:
        fields["table"] = step.step_key.removeprefix("check_")
    asked = tags.get("k2/snapshot", "")
    snapshot = _run_snapshots.get(str(meta.get("run_id"))) or (int(asked) if asked.isdecimal() else None)
    return {**fields, "snapshot": snapshot}


def failure_message(event: Any) -> str | None:
    """What went wrong, in the words of who raised it, from Dagster's event of a failed step or run."""
    data = event.event_specific_data
    told = getattr(data, "user_failure_data", None)
    if told is not None and told.description:
        return str(told.description)
    error = getattr(data, "error", None)
    while error is not None and error.cause is not None:
        error = error.cause
    return str(error.message).strip() if error is not None else None
