"""Configures logs on stderr: a line of text, or a JSON object, per event. CLI and Dagster runs log alike.

The handler and the fields of a log line belong here. Each module decides itself what to log. Fields of
Dagster events are in `dagster_events`.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from k2_ohlcv.logs.dagster_events import event_fields, event_level, run_fields

#: The parent of all loggers of this project.
ROOT = "k2_ohlcv"
#: The attribute of a standard log record that carries the fields (`extra={FIELDS: {...}}`).
FIELDS = "k2"


def get_logger(name: str) -> Any:
    """Get a structlog logger: `log.info("what happened", table=..., seconds=...)`."""
    return structlog.stdlib.get_logger(name)


def configure(
    *,
    json_lines: bool,
    level: int = logging.INFO,
    events: bool = True,
    keep: bool = True,
) -> None:
    """Send the logs of this process to stderr. With `keep`, a second call changes nothing.

    With `json_lines`, all loggers and warnings of the process use this handler, so stderr has only JSON.
    Without, only the loggers of this project do. Dagster's console logger of a run uses the handler in both
    cases.

    Args:
        json_lines: write JSON objects instead of text.
        level: the lowest level that is shown.
        events: also show events of runs and steps.
        keep: do not change an earlier configuration.
    """
    owner = logging.getLogger(None if json_lines else ROOT)
    project = logging.getLogger(ROOT)
    if any(isinstance(handler, _Handler) for handler in [*owner.handlers, *project.handlers]):
        if keep:
            return
        for logger in (logging.getLogger(), project):
            logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _Handler)]
    _configure_structlog()
    handler = _Handler(sys.stderr, level, events)
    handler.setFormatter(_formatter(json_lines))
    owner.addHandler(handler)
    _RunLogger.project_handler = handler
    logging.setLoggerClass(_RunLogger)
    project.setLevel(level)
    project.propagate = json_lines
    if json_lines:
        _replace_root_handlers(handler)


class _Handler(logging.StreamHandler[TextIO]):
    """Filters records by level. The record level of a Dagster event is ignored: its type gives the level."""

    def __init__(self, stream: TextIO, level: int, events: bool) -> None:
        super().__init__(stream)
        self._min_level = level
        self._events = events

    def filter(self, record: logging.LogRecord) -> bool:
        """Select the records to write. See the class."""
        event = (getattr(record, "dagster_meta", None) or {}).get("dagster_event")
        if event is None:
            return record.levelno >= self._min_level
        return self._events and event_level(event.event_type_value) >= self._min_level


class _RunLogger(logging.Logger):
    """Gives the project's handler to Dagster's console logger.

    A logger in the definitions works only for runs whose configuration names it. Runs that the UI starts from
    an asset's page do not. For every run, Dagster creates its console logger from the process's logger class.
    """

    project_handler: logging.Handler | None = None

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 # logging's name
        """Use the project's handler for Dagster's console logger, instead of Dagster's handler."""
        if self.name == "dagster" and self.project_handler is not None:
            self.handlers = [self.project_handler]
        else:
            super().addHandler(hdlr)


def _replace_root_handlers(handler: logging.Handler) -> None:
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
            _add_fields,
            structlog.processors.TimeStamper(fmt="iso" if json_lines else "%H:%M:%S", utc=json_lines),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _timestamp_first,
            *render,
        ],
        use_get_message=True,
    )


def _add_fields(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Copy the fields of the log record into the line: the project's fields, and Dagster's run and event."""
    record: logging.LogRecord = line["_record"]
    meta: Mapping[str, Any] = getattr(record, "dagster_meta", None) or {}
    if meta:
        line.update(run_fields(meta))
        line["event"] = meta.get("orig_message") or line["event"]
        if event := meta.get("dagster_event"):
            line.update(event_fields(event, meta))
    line.update(getattr(record, FIELDS, None) or {})
    return line


def _timestamp_first(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    first = {name: line.pop(name) for name in ("timestamp", "level", "event") if name in line}
    return {**first, **line}
