"""Faults at named points of a commit: lost responses, torn writes, stale reads, kills, others in between.

The catalog and the files are PyIceberg's own; its calls are wrapped for the length of a life.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.io.pyarrow import PyArrowFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import CommitConflictError, K2Error


class Killed(BaseException):
    """The process is gone: nothing may catch this."""


#: What can happen at each point.
EFFECTS: dict[str, tuple[str, ...]] = {
    "load": ("stale", "kill", "other"),
    "before commit": ("kill", "other", "conflict", "down"),
    "after commit": ("kill", "other", "lost", "down"),
    "write data": ("torn", "kill"),
    "write manifest": ("torn", "kill"),
    "write metadata": ("torn", "kill"),
}
#: What a command may end with by each: anything else is a failure of the command.
ALLOWED: dict[str, tuple[type[BaseException], ...]] = {
    "stale": (K2Error, FileNotFoundError),
    "kill": (Killed,),
    "other": (CommitConflictError,),
    "conflict": (),
    "lost": (CommitStateUnknownException, K2Error),
    "down": (ConnectionError, K2Error),
    "torn": (OSError, K2Error),
}


@dataclass
class Fault:
    """What happens, and at which hit of its point; `happened` says whether it came to that."""

    point: str
    effect: str
    hit: int = 1
    happened: bool = False

    def __str__(self) -> str:
        return f"{self.effect} at {self.point} {self.hit}"


class Hooks:
    """The wrapped calls, and the fault that is armed, if any."""

    def __init__(self) -> None:
        self.armed: Fault | None = None
        #: What another process does in between; called with no fault armed.
        self.other: Callable[[], None] = lambda: None
        self._inside = False

    def reached(self, point: str) -> str | None:
        """The effect that is due at a point, if one is; it happens once."""
        fault = self.armed
        if fault is None or fault.point != point or fault.happened:
            return None
        fault.hit -= 1
        if fault.hit > 0:
            return None
        fault.happened = True
        return fault.effect

    def strike(self, effect: str | None) -> None:
        """Let an effect happen that no result comes from."""
        match effect:
            case "kill":
                raise Killed
            case "conflict":
                raise CommitFailedException("made to fail")
            case "lost":
                raise CommitStateUnknownException("the response was lost")
            case "down":
                raise ConnectionError("the catalog is down")
            case "other":
                with self.asleep():
                    self.other()

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """No fault meanwhile: the simulator looks for itself."""
        fault, self.armed = self.armed, None
        try:
            yield
        finally:
            self.armed = fault

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wrap the catalog's and the files' calls."""
        real_load, real_commit, real_create = (
            SqlCatalog.load_table,
            SqlCatalog.commit_table,
            PyArrowFile.create,
        )
        hooks = self

        def load_table(catalog: SqlCatalog, identifier: Any) -> Table:
            table = real_load(catalog, identifier)
            if hooks._inside:
                return table
            effect = hooks.reached("load")
            if effect == "stale":
                return _before(table)
            hooks.strike(effect)
            return real_load(catalog, identifier) if effect else table

        def commit_table(catalog: SqlCatalog, table: Table, requirements: Any, updates: Any) -> Any:
            hooks.strike(hooks.reached("before commit"))
            nested, hooks._inside = hooks._inside, True
            try:
                response = real_commit(catalog, table, requirements, updates)
            finally:
                hooks._inside = nested
            hooks.strike(hooks.reached("after commit"))
            return response

        def create(file: PyArrowFile, overwrite: bool = False) -> Any:
            effect = hooks.reached(_point(file.location))
            if effect is None:
                return real_create(file, overwrite)
            with real_create(file, True) as stream:
                stream.write(b"PAR1\x00torn")
            if effect == "kill":
                raise Killed
            raise OSError(errno.ENOSPC, "no space left on device", file.location)

        SqlCatalog.load_table, SqlCatalog.commit_table, PyArrowFile.create = load_table, commit_table, create  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            SqlCatalog.load_table, SqlCatalog.commit_table = real_load, real_commit  # type: ignore[method-assign]
            PyArrowFile.create = real_create  # type: ignore[method-assign]


def _point(location: str) -> str:
    if location.endswith(".metadata.json"):
        return "write metadata"
    return "write manifest" if location.endswith(".avro") else "write data"


def _before(table: Table) -> Table:
    """A table one version earlier, as a catalog's cache would give it."""
    log = table.metadata.metadata_log
    if not log:
        return table
    place = log[-1].metadata_file
    metadata = FromInputFile.table_metadata(table.io.new_input(place))
    return Table(table.name(), metadata, place, table.io, table.catalog, table.config)
