"""The measured engines, one file each. Compared engines read the same files and compute the same candles."""

from collections.abc import Callable
from importlib import import_module

from bench.job import BenchEngine

#: The module of each engine. Its `create_engine` returns the engine. Only the engine's process imports it.
ENGINES = {
    "K2": "bench.engines.rebuild",
    "DuckDB": "bench.engines.duckdb",
    "Polars": "bench.engines.polars",
    "ingest": "bench.engines.ingestion",
    "refresh": "bench.engines.refresh",
    "first refresh": "bench.engines.first_refresh",
    "retention": "bench.engines.retention",
    "validate": "bench.engines.validation",
    "planning": "bench.engines.planning",
    "Spark MERGE": "bench.engines.spark_merge",
}
OWN_ENGINES = "K2"
OTHER_ENGINES = ("DuckDB", "Polars")
#: The usual way to refresh, on Apache Spark. Measured only if Java is installed.
SPARK_MERGE = "Spark MERGE"


def create_engine(name: str) -> BenchEngine:
    """Load an engine."""
    create: Callable[[], BenchEngine] = import_module(ENGINES[name]).create_engine
    return create()
