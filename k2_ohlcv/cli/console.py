"""The output of a command: its result on stdout; progress, notes and errors on stderr."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from k2_ohlcv import logs
from k2_ohlcv.domain.printable import make_printable
from k2_ohlcv.settings import Settings

#: Characters: enough for the widest table of any command.
_WIDTH = 130
# Characters of one text: enough for many names, but not for a whole file.
_MAX_TEXT = 20_000


class Console:
    """The output of one command. It is a context manager that sets up the logs on entry."""

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self.settings = settings
        self.as_json = as_json
        # A narrow terminal wraps lines, so that no number is cut.
        self._out = RichConsole(highlight=False, width=max(_WIDTH, RichConsole().width))
        self._err = RichConsole(stderr=True, highlight=False)
        self._log = logs.get_logger("k2_ohlcv.cli.main")

    def __enter__(self) -> "Console":
        json_lines = self.settings.log_json
        # With text output the command itself shows what happens, so logs show only warnings and errors.
        level = logging.INFO if json_lines else logging.WARNING
        logs.configure(json_lines=json_lines, level=level, events=json_lines, keep=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def print_json(self, value: Mapping[str, object]) -> None:
        """Print the one object on stdout, with `--json` only."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, default=str) + "\n")
            sys.stdout.flush()

    def print_text(self, *parts: object) -> None:
        """Print texts and rich tables on stdout, without `--json` only."""
        if not self.as_json:
            for part in parts:
                is_text = isinstance(part, str)
                self._out.print(_plain(part) if isinstance(part, str) else part, soft_wrap=is_text)

    def print_note(self, text: str, **fields: object) -> None:
        """Print a remark that is not part of the result, on stderr or as a log line."""
        if self.settings.log_json:
            self._log.info(text, **fields)
        else:
            self._err.print(_plain(text), soft_wrap=True)

    @contextmanager
    def progress(self, title: str, total: int | None = None) -> Iterator["ProgressSteps"]:
        """Show progress on stderr: a bar on a terminal, else a line a step. With JSON logs show nothing."""
        if self.settings.log_json:
            yield ProgressSteps(self, title, None)
        elif not self._err.is_terminal:
            self.print_note(f"{title} ...")
            yield ProgressSteps(self, title, None)
        else:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self._err, transient=True) as bars:
                steps = ProgressSteps(self, title, bars, total)
                with logs.show_progress(steps.start_step):
                    yield steps


class ProgressSteps:
    """The steps of a command, shown as they start and end."""

    def __init__(self, console: Console, title: str, bars: Progress | None, total: int | None = None) -> None:
        self._console = console
        self._title = title
        self._bars = bars
        self._task = bars.add_task(title, total=total) if bars else None

    def start_step(self, text: str) -> None:
        """Show the current step. As it changes often, only a terminal shows it."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=f"{self._title}: {text}")

    def finish_step(self, text: str) -> None:
        """Show that a step has ended."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task)
        elif not self._console.settings.log_json:
            self._console.print_note(text)


class _PlainTable(Table):
    """A table that shows texts unchanged: brackets in names of files and markets are no styles."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(_plain(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table. A column whose name ends in `#` is for numbers."""
    heading = _plain(title) if title else None
    result = _PlainTable(title=heading, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_numeric = column.endswith("#")
        result.add_column(column.removesuffix("#"), justify="right" if is_numeric else "left", no_wrap=True)
    return result


def report_error(text: str) -> None:
    """Print the error that ends the command, as the last line on stderr. It is JSON if logs are."""
    if os.environ.get("K2_LOG") == "json":
        logs.configure(json_lines=True)
        logs.get_logger("k2_ohlcv.cli.main").error(text)
    else:
        error = Text.assemble(("error:", "red"), " ", _plain(text))
        RichConsole(stderr=True, highlight=False).print(error, soft_wrap=True)


def _plain(text: str) -> Text:
    """The text without markup and with escaped control characters, as it may quote a file or a market."""
    return Text(make_printable(text, _MAX_TEXT, keep="\n"))
