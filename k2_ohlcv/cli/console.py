"""What a command shows and where: its result on stdout, progress, notes and errors on stderr."""

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

#: The widest of our tables.
_WIDTH = 130
# Characters of one text: many a name, no whole file.
_MAX_TEXT = 20_000


class Console:
    """One command's output. Used as a context: the logs are set up on entry."""

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self.settings = settings
        self.as_json = as_json
        # Rather a line that a narrow window wraps than a number that is cut.
        self._out = RichConsole(highlight=False, width=max(_WIDTH, RichConsole().width))
        self._err = RichConsole(stderr=True, highlight=False)
        self._log = logs.get_logger("k2_ohlcv.cli.main")

    def __enter__(self) -> "Console":
        json_lines = self.settings.log_json
        # In text, progress and the command's own words tell what happens: logs are for what went wrong.
        level = logging.INFO if json_lines else logging.WARNING
        logs.configure(json_lines=json_lines, level=level, events=json_lines, keep=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def print_json(self, value: Mapping[str, object]) -> None:
        """With `--json`: the one object on stdout."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, default=str) + "\n")
            sys.stdout.flush()

    def print_text(self, *what: object) -> None:
        """Without `--json`: text or a rich table for people, on stdout."""
        if not self.as_json:
            for one in what:
                is_text = isinstance(one, str)
                self._out.print(_plain(one) if isinstance(one, str) else one, soft_wrap=is_text)

    def print_note(self, text: str, **fields: object) -> None:
        """Something worth knowing that is no part of the result: on stderr, or as a log line."""
        if self.settings.log_json:
            self._log.info(text, **fields)
        else:
            self._err.print(_plain(text), soft_wrap=True)

    @contextmanager
    def progress(self, title: str, total: int | None = None) -> Iterator["ProgressSteps"]:
        """Progress on stderr: a bar on a terminal, a line a step elsewhere, nothing where logs are JSON."""
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
    """How far a command is."""

    def __init__(
        self, terminal: Console, title: str, bars: Progress | None, total: int | None = None
    ) -> None:
        self._terminal = terminal
        self._title = title
        self._bars = bars
        self._task = bars.add_task(title, total=total) if bars else None

    def start_step(self, what: str) -> None:
        """What is being done now; shown on a terminal alone, it changes often."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=f"{self._title}: {what}")

    def finish_step(self, what: str) -> None:
        """A step is over."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task)
        elif not self._terminal.settings.log_json:
            self._terminal.print_note(what)


class _PlainTable(Table):
    """A table whose texts are shown as they are: names of files and markets are not styles."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(_plain(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in our style; columns that end in `#` hold numbers."""
    shown = _plain(title) if title else None
    made = _PlainTable(title=shown, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column.endswith("#")
        made.add_column(column.removesuffix("#"), justify="right" if numeric else "left", no_wrap=True)
    return made


def report_error(text: str) -> None:
    """An error that ends the command: the last line on stderr, in JSON where logs are."""
    if os.environ.get("K2_LOG") == "json":
        logs.configure(json_lines=True)
        logs.get_logger("k2_ohlcv.cli.main").error(text)
    else:
        error = Text.assemble(("error:", "red"), " ", _plain(text))
        RichConsole(stderr=True, highlight=False).print(error, soft_wrap=True)


def _plain(text: str) -> Text:
    """A text without markup, and with control characters as escapes: it may quote a file or a market."""
    return Text(make_printable(text, _MAX_TEXT, keep="\n"))
