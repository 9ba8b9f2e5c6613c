"""Logs and progress messages. This module only exports the names of its submodules."""

from k2_ohlcv.logs.configure import FIELDS, ROOT, configure, get_logger
from k2_ohlcv.logs.dagster_events import failure_message, partitions_of_run, set_run_snapshot
from k2_ohlcv.logs.progress import report_progress, show_progress

__all__ = [
    "FIELDS",
    "ROOT",
    "configure",
    "failure_message",
    "get_logger",
    "partitions_of_run",
    "report_progress",
    "set_run_snapshot",
    "show_progress",
]
