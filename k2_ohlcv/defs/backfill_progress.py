"""How far a whole backfill is, over all of its runs. The progress of one run is in `log_progress`.

Dagster's page of a backfill counts its partitions, and does not know trades.
"""

import time
from collections.abc import Callable, Mapping
from datetime import date

import dagster as dg

from k2_ohlcv import logs
from k2_ohlcv.domain.intervals import Interval, day_start
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.row_estimates import RowsPerDay
from k2_ohlcv.operations.run_progress import RunProgress

BACKFILL_TAG = "dagster/backfill"
_ABANDONED_STATUSES = {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}


def log_backfill_progress(
    context: dg.AssetExecutionContext,
    lake: Lake,
    timeframe: Timeframe,
    clock: Callable[[], float] = time.time,
) -> None:
    """Log how far the backfill of this run is with a table. The run has just written the table."""
    backfill = context.run.tags.get(BACKFILL_TAG)
    if backfill is None:
        return
    runs = context.instance.get_run_records(dg.RunsFilter(tags={BACKFILL_TAG: backfill}))
    runs = [record for record in runs if _has_table(record.dagster_run, timeframe.table)]
    trades = lake.trades()
    rows = RowsPerDay(live_files(trades, trades.metadata.current_snapshot_id))
    now = clock()
    partitions, done, expected, expected_done = 0, 0, 0.0, 0.0
    for record in runs:
        run = record.dagster_run
        span = _span(run.tags, timeframe.grain)
        if span is None or run.status in _ABANDONED_STATUSES:
            continue
        count, trades_of_run = len(timeframe.grain.partitions([span])), rows.estimate(span)
        partitions, expected = partitions + count, expected + trades_of_run
        if run.status is dg.DagsterRunStatus.SUCCESS or run.run_id == context.run.run_id:
            done, expected_done = done + count, expected_done + trades_of_run
    began = min((record.start_time for record in runs if record.start_time), default=now)
    progress = RunProgress(
        timeframe.table, done, partitions, round(expected_done), now - began, expected_done, expected
    )
    fields = {"event": "backfill progress", "backfill": backfill, **progress.as_json()}
    context.log.info(f"backfill {backfill}: {progress}", extra={logs.FIELDS: fields})


def _has_table(run: dg.DagsterRun, table: str) -> bool:
    return run.asset_selection is None or dg.AssetKey(table) in run.asset_selection


def _span(tags: Mapping[str, str], grain: Grain) -> Interval | None:
    """The partitions of a run; None without any."""
    single = tags.get("dagster/partition")
    first = tags.get("dagster/asset_partition_range_start", single)
    last = tags.get("dagster/asset_partition_range_end", single)
    if first is None or last is None:
        return None
    start, end = (grain.partition(day_start(date.fromisoformat(key))) for key in (first, last))
    return Interval(start.start, end.end)
