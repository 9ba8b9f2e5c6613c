"""Lets something happen in the middle of an operation."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from k2_ohlcv.engine import rollup
from k2_ohlcv.lake.catalog import Lake


@dataclass(frozen=True)
class Interrupted(Lake):
    """A lake in which something happens right after the trades table is loaded, for so many times."""

    what: list[Callable[[], object]] = None  # type: ignore[assignment]

    def trades(self):  # type: ignore[no-untyped-def]
        table = super().trades()
        if self.what:
            self.what.pop(0)()
        return table


def interrupt_windows(
    monkeypatch: pytest.MonkeyPatch, what: Callable[[], object], times: int = 1
) -> list[int]:
    """Let something happen while windows are being computed; counts the computations."""
    real, calls = rollup.compute_windows, [0]

    def windows(*args: object, **options: object) -> object:
        calls[0] += 1
        computed = real(*args, **options)  # type: ignore[arg-type]
        if calls[0] <= times:
            monkeypatch.setattr(rollup, "compute_windows", real)
            what()
            monkeypatch.setattr(rollup, "compute_windows", windows)
        return computed

    monkeypatch.setattr(rollup, "compute_windows", windows)
    return calls
