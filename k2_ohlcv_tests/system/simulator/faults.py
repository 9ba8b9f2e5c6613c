"""Faults at named points of a commit: lost responses, torn writes, stale reads, kills, other writers.

Catalog and files are PyIceberg's own. Their calls are wrapped during a life.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.io.pyarrow import PyArrowFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import CommitConflictError, K2Error


class Killed(BaseException):
    """The process was killed. No code may catch this error."""


#: The possible effects at each point.
EFFECTS: dict[str, tuple[str, ...]] = {
    "load": ("stale", "kill", "interrupt"),
    "before commit": ("kill", "interrupt", "conflict", "down"),
    "after commit": ("kill", "interrupt", "lost", "down"),
    "write data": ("torn", "kill"),
    "write manifest": ("torn", "kill"),
    "write metadata": ("torn", "kill"),
}
#: The errors that each effect may cause. Any other error is a failure of the command.
ALLOWED: dict[str, tuple[type[BaseException], ...]] = {
    "stale": (K2Error, FileNotFoundError),
    "kill": (Killed,),
    "interrupt": (CommitConflictError,),
    "conflict": (),
    "lost": (CommitStateUnknownException, K2Error),
    "down": (ConnectionError, K2Error),
    "torn": (OSError, K2Error),
}


@dataclass
class Fault:
    """An effect at a hit of a point. `happened` is true when the effect took place."""

    point: str
    effect: str
    hit: int = 1
    happened: bool = False

    def __str__(self) -> str:
        return f"{self.effect} at {self.point} {self.hit}"


class Hooks:
    """The wrapped calls, and the armed fault if there is one."""

    def __init__(self) -> None:
        self.armed: Fault | None = None
        #: The step of another writer. No fault is armed during this call.
        self.interrupt: Callable[[], None] = lambda: None
        self._inside = False

    def due_effect(self, point: str) -> str | None:
        """The effect that is due at a point, if any. Each fault has its effect once."""
        fault = self.armed
        if fault is None or fault.point != point or fault.happened:
            return None
        fault.hit -= 1
        if fault.hit > 0:
            return None
        fault.happened = True
        return fault.effect

    def strike(self, effect: str | None) -> None:
        """Cause an effect that has no result."""
        match effect:
            case "kill":
                raise Killed
            case "conflict":
                raise CommitFailedException("a simulated conflict")
            case "lost":
                raise CommitStateUnknownException("the response was lost")
            case "down":
                raise ConnectionError("the catalog is down")
            case "interrupt":
                with self.disarmed():
                    self.interrupt()

    @contextmanager
    def disarmed(self) -> Iterator[None]:
        """Disarm the fault while the simulator itself reads the lake."""
        fault, self.armed = self.armed, None
        try:
            yield
        finally:
            self.armed = fault

    @contextmanager
    def install(self) -> Iterator[None]:
        """Wrap the calls of catalog and files."""
        real_load, real_commit = SqlCatalog.load_table, SqlCatalog.commit_table
        real_create = PyArrowFile.create
        hooks = self

        def load_table(catalog: SqlCatalog, identifier: Any) -> Table:
            table = real_load(catalog, identifier)
            if hooks._inside:
                return table
            effect = hooks.due_effect("load")
            if effect == "stale":
                return _previous_version(table)
            hooks.strike(effect)
            return real_load(catalog, identifier) if effect else table

        def commit_table(catalog: SqlCatalog, table: Table, requirements: Any, updates: Any) -> Any:
            hooks.strike(hooks.due_effect("before commit"))
            nested, hooks._inside = hooks._inside, True
            try:
                response = real_commit(catalog, table, requirements, updates)
            finally:
                hooks._inside = nested
            hooks.strike(hooks.due_effect("after commit"))
            return response

        def create(file: PyArrowFile, overwrite: bool = False) -> Any:
            effect = hooks.due_effect(_point(file.location))
            if effect is None:
                return real_create(file, overwrite)
            with real_create(file, True) as stream:
                stream.write(b"PAR1\x00torn")
            if effect == "kill":
                raise Killed
            raise OSError(errno.ENOSPC, "no space left on device", file.location)

        with (
            patch.object(SqlCatalog, "load_table", load_table),
            patch.object(SqlCatalog, "commit_table", commit_table),
            patch.object(PyArrowFile, "create", create),
        ):
            yield


def _point(location: str) -> str:
    if location.endswith(".metadata.json"):
        return "write metadata"
    return "write manifest" if location.endswith(".avro") else "write data"


def _previous_version(table: Table) -> Table:
    """The table one version earlier, as from the cache of a catalog."""
    log = table.metadata.metadata_log
    if not log:
        return table
    location = log[-1].metadata_file
    metadata = FromInputFile.table_metadata(table.io.new_input(location))
    return Table(table.name(), metadata, location, table.io, table.catalog, table.config)
