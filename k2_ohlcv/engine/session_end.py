"""Stops a PySpark session once. Starting one is in `session`, and the timeout of its end is in `connect`."""

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def stop_session(spark: "SparkSession") -> None:
    """Stop a session, so that its finalizer does nothing later.

    PySpark closes the client again when a stopped session is garbage-collected. That call shuts down a pool
    of threads which all sessions of the process share. If the collection runs while another session uses
    the pool, the process waits for itself and never ends.
    """
    try:
        spark.stop()
    finally:
        cast("Any", spark).client.close = _do_nothing


def _do_nothing() -> None:
    """Replace a client's `close` after the client was closed."""
