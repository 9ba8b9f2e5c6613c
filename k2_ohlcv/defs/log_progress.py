"""Logs the progress of a step in its run, at a measured pace. The UI shows it on the page of the run."""

import time
from collections.abc import Callable

import dagster as dg

from k2_ohlcv import logs
from k2_ohlcv.operations.run_progress import RunProgress

#: The least seconds between two log lines of a step. Dagster's storage keeps each line.
LOG_SECONDS = 10.0


def log_progress(
    context: dg.AssetExecutionContext, clock: Callable[[], float] = time.monotonic
) -> Callable[[RunProgress], None]:
    """A function that shows progress to an interactive user, and logs it every few seconds."""
    last = clock()

    def show(progress: RunProgress) -> None:
        nonlocal last
        logs.report_progress(str(progress))
        if (now := clock()) - last >= LOG_SECONDS:
            last = now
            fields = {"event": "progress", **progress.as_json()}
            context.log.info(str(progress), extra={logs.FIELDS: fields})

    return show
