"""Who is measured, one file each. Those of one race read the same data files and give the same candles."""

from collections.abc import Callable
from importlib import import_module

from bench.job import BenchEngine

#: By name: the module, in which `open` gives the contender. Imported only in its own process.
ENGINES = {
    "K2": "bench.engines.rebuild",
    "DuckDB": "bench.engines.duckdb",
    "Polars": "bench.engines.polars",
    "ingest": "bench.engines.ingestion",
    "refresh": "bench.engines.refresh",
    "retention": "bench.engines.retention",
    "validate": "bench.engines.validation",
    "Spark MERGE": "bench.engines.spark_merge",
}
OWN_ENGINES = "K2"
OTHER_ENGINES = ("DuckDB", "Polars")
#: The usual way to refresh, on real Apache Spark: measured where Java is.
SPARK_MERGE = "Spark MERGE"


def create_engine(name: str) -> BenchEngine:
    """A contender, with its engine loaded."""
    start: Callable[[], BenchEngine] = import_module(ENGINES[name]).create_engine
    return start()
