"""Runs an action of another writer in the middle of an operation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import pytest

from k2_ohlcv.engine import rollup
from k2_ohlcv.lake import trades
from k2_ohlcv.lake.catalog import Lake


@dataclass(frozen=True)
class Interrupted(Lake):
    """A lake that runs one action after each load of the trades table, until no action is left."""

    actions: list[Callable[[], object]] = field(default_factory=list)

    def trades(self):  # type: ignore[no-untyped-def]
        """Load the trades table, then run the next action."""
        table = super().trades()
        if self.actions:
            self.actions.pop(0)()
        return table


def interrupt_windows(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[], object], times: int = 1
) -> list[int]:
    """Run an action while windows are computed. Returns a list that counts the computations."""
    return interrupt(monkeypatch, rollup, "compute_windows", action, times)


def interrupt_lookups(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[], object], times: int = 1
) -> list[int]:
    """Run an action between the search for duplicates and the commit. Counts the searches."""
    return interrupt(monkeypatch, trades, "find_duplicates", action, times)


def interrupt(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, action: Callable[[], object], times: int
) -> list[int]:
    """Run an action right after each of the first calls of a function.

    Args:
        monkeypatch: replaces the function.
        module: the module that looks the function up.
        name: the function's name in that module.
        action: may call the function itself. Such calls are neither counted nor interrupted.
        times: how many calls are interrupted.

    Returns:
        a list of one number: the calls so far.
    """
    real, calls = getattr(module, name), [0]

    def interrupted(*args: object, **options: object) -> object:
        calls[0] += 1
        result = real(*args, **options)
        if calls[0] <= times:
            monkeypatch.setattr(module, name, real)
            action()
            monkeypatch.setattr(module, name, interrupted)
        return result

    monkeypatch.setattr(module, name, interrupted)
    return calls
