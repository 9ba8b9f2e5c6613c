"""Logs: one line of text, or one JSON object a line, on stderr; the same from the CLI and from Dagster runs.

Knows the fields of a line and how they get there. What is worth a line is decided where it happens. Progress,
which is for the eyes of who waits and is never kept, passes through here as well.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

#: The loggers of this project are below this name.
ROOT = "k2_ohlcv"
#: The name under which fields travel on a standard log record (`extra={FIELDS: {...}}`).
FIELDS = "k2"

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
_pinned: dict[str, int | None] = {}
_progress: ContextVar[Callable[[str], None] | None] = ContextVar("k2_progress", default=None)


def get_logger(name: str) -> Any:
    """A structlog logger: `log.info("what happened", table=..., seconds=...)`."""
    return structlog.stdlib.get_logger(name)


def progress(message: str) -> None:
    """Tell who waits, if anyone does, what is being done now."""
    if show := _progress.get():
        show(message)


@contextmanager
def progress_to(show: Callable[[str], None]) -> Iterator[None]:
    """Show the progress of what is called inside."""
    token = _progress.set(show)
    try:
        yield
    finally:
        _progress.reset(token)


def pin(run_id: str, snapshot: int | None) -> None:
    """Say which trades snapshot a run of this process works from, for the lines of its failures."""
    _pinned.clear()
    _pinned[run_id] = snapshot


def configure(
    *,
    json_lines: bool,
    level: int = logging.INFO,
    events: bool = True,
    keep: bool = True,
) -> None:
    """Send this process's logs to stderr in the chosen form. A second call changes nothing unless told to.

    With `json_lines` all loggers of the process are taken over, warnings too, so that stderr holds nothing
    else. In text only our own are. Dagster's console logger of a run is ours from then on in both.

    Args:
        json_lines: JSON objects, else text for people.
        level: the least level that is shown.
        events: show what happens to runs and steps, too.
        keep: leave an earlier configuration as it is.
    """
    owner = logging.getLogger(None if json_lines else ROOT)
    ours = logging.getLogger(ROOT)
    if any(isinstance(handler, _Handler) for handler in [*owner.handlers, *ours.handlers]):
        if keep:
            return
        for logger in (logging.getLogger(), ours):
            logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _Handler)]
    _configure_structlog()
    handler = _Handler(sys.stderr, level, events)
    handler.setFormatter(_formatter(json_lines))
    owner.addHandler(handler)
    _RunLogger.ours = handler
    logging.setLoggerClass(_RunLogger)
    ours.setLevel(level)
    ours.propagate = json_lines
    if json_lines:
        _take_over(handler)


class _Handler(logging.StreamHandler[TextIO]):
    """Picks what is worth a line. Dagster sends its events at a level that says nothing of their weight."""

    def __init__(self, stream: TextIO, least: int, events: bool) -> None:
        super().__init__(stream)
        self._least = least
        self._events = events

    def filter(self, record: logging.LogRecord) -> bool:
        """See the class."""
        event = (getattr(record, "dagster_meta", None) or {}).get("dagster_event")
        if event is None:
            return record.levelno >= self._least
        return self._events and _weight(event.event_type_value) >= self._least


class _RunLogger(logging.Logger):
    """Gives Dagster's console logger our handler.

    A logger in the definitions would serve only those runs whose configuration names it, and the runs that
    the UI starts from an asset's page do not. But Dagster makes its console logger, for every run, of the
    process's logger class.
    """

    ours: logging.Handler | None = None

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 # logging's name
        """Take ours in place of the one that Dagster gives its console logger."""
        if self.name == "dagster" and self.ours is not None:
            self.handlers = [self.ours]
        else:
            super().addHandler(hdlr)


def _weight(kind: str) -> int:
    if kind in _FAILURES:
        return logging.ERROR
    return logging.INFO if kind in _EVENTS else logging.DEBUG


def _take_over(handler: logging.Handler) -> None:
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        if logger.handlers and name.partition(".")[0] in {"dagster", "uvicorn", "py", "pyspark", ROOT}:
            logger.handlers, logger.propagate = [], True
    logging.captureWarnings(capture=True)


def _configure_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _formatter(json_lines: bool) -> logging.Formatter:
    render: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if json_lines
        else [structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, pad_level=False)]
    )
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.add_log_level,
            _fields,
            structlog.processors.TimeStamper(fmt="iso" if json_lines else "%H:%M:%S", utc=json_lines),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _timestamp_first,
            *render,
        ],
        use_get_message=True,
    )


def _fields(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Put what travelled on the record into the line: our fields, and what Dagster knows of the run."""
    record: logging.LogRecord = line["_record"]
    meta: Mapping[str, Any] = getattr(record, "dagster_meta", None) or {}
    if meta:
        line.update(_run_fields(meta))
        line["event"] = meta.get("orig_message") or line["event"]
        if event := meta.get("dagster_event"):
            line.update(_event_fields(event, meta))
    line.update(getattr(record, FIELDS, None) or {})
    return line


def _run_fields(meta: Mapping[str, Any]) -> dict[str, object]:
    tags: Mapping[str, str] = meta.get("job_tags") or {}
    fields: dict[str, object] = {"run_id": meta.get("run_id"), "job": meta.get("job_name")}
    if partitions := partitions_of(tags):
        fields["partitions"] = partitions
    if step := meta.get("step_key"):
        # Most steps have the names of their tables; the others' runs have a tag.
        fields |= {"step": step, "table": tags.get("k2/table") or step.removeprefix("check_")}
    return {name: value for name, value in fields.items() if value is not None}


def partitions_of(tags: Mapping[str, str]) -> str | None:
    """The partitions that a run's tags name: a key, or the first and the last one of a range."""
    first = tags.get("dagster/asset_partition_range_start")
    last = tags.get("dagster/asset_partition_range_end")
    if first and last:
        return first if first == last else f"{first}...{last}"
    return tags.get("dagster/partition")


def _event_fields(event: Any, meta: Mapping[str, Any]) -> dict[str, object]:
    kind = event.event_type_value
    level = logging.getLevelName(_weight(kind)).lower()
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
    snapshot = _pinned.get(str(meta.get("run_id"))) or (int(asked) if asked.isdecimal() else None)
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


def _timestamp_first(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    first = {name: line.pop(name) for name in ("timestamp", "level", "event") if name in line}
    return {**first, **line}
