"""Who is measured, one file each. All read the same data files and give the same candles."""

from collections.abc import Callable
from importlib import import_module

from bench.job import Contender

#: By name: the module, in which `open` gives the contender. Imported only in its own process.
CONTENDERS = {
    "K2": "bench.contenders.ours",
    "DuckDB": "bench.contenders.duck",
    "Polars": "bench.contenders.polar",
    "ingest": "bench.contenders.landing",
}
OURS = "K2"
OTHERS = ("DuckDB", "Polars")


def open_contender(name: str) -> Contender:
    """A contender, with its engine loaded."""
    start: Callable[[], Contender] = import_module(CONTENDERS[name]).open
    return start()
