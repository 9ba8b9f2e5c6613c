"""Who is measured, one file each. Those of one race read the same data files and give the same candles."""

from collections.abc import Callable
from importlib import import_module

from bench.job import Contender

#: By name: the module, in which `open` gives the contender. Imported only in its own process.
CONTENDERS = {
    "K2": "bench.contenders.ours",
    "DuckDB": "bench.contenders.duck",
    "Polars": "bench.contenders.polar",
    "ingest": "bench.contenders.landing",
    "refresh": "bench.contenders.refreshed",
    "retention": "bench.contenders.dropped",
    "validate": "bench.contenders.validated",
    "Spark MERGE": "bench.contenders.merge",
}
OURS = "K2"
OTHERS = ("DuckDB", "Polars")
#: The usual way to refresh, on real Apache Spark: measured where Java is.
MERGE = "Spark MERGE"


def open_contender(name: str) -> Contender:
    """A contender, with its engine loaded."""
    start: Callable[[], Contender] = import_module(CONTENDERS[name]).open
    return start()
