"""Logs: one line of text, or one JSON object a line, on stderr; the same from the CLI and from Dagster runs.

Knows the fields of a line and how they get there. What is worth a line is decided where it happens. Progress,
which is for the eyes of who waits and is never kept, passes through here as well.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from k2_ohlcv.logs.dagster_events import event_fields, event_level, run_fields

#: The loggers of this project are below this name.
ROOT = "k2_ohlcv"
#: The name under which fields travel on a standard log record (`extra={FIELDS: {...}}`).
FIELDS = "k2"


def get_logger(name: str) -> Any:
    """A structlog logger: `log.info("what happened", table=..., seconds=...)`."""
    return structlog.stdlib.get_logger(name)


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
        return self._events and event_level(event.event_type_value) >= self._least


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
            _add_fields,
            structlog.processors.TimeStamper(fmt="iso" if json_lines else "%H:%M:%S", utc=json_lines),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _timestamp_first,
            *render,
        ],
        use_get_message=True,
    )


def _add_fields(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Put what travelled on the record into the line: our fields, and what Dagster knows of the run."""
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
