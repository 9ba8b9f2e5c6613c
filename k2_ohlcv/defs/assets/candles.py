"""The factory of the candle assets. The work is in `operations.reconcile`.

`reconcile` is imported when a step runs: without it the graph loads in half the time.
"""

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from k2_ohlcv import logs
from k2_ohlcv.defs import checks, run_tags
from k2_ohlcv.defs.assets.common import log_summary, table_asset
from k2_ohlcv.defs.backfill import candles_backfill_policy
from k2_ohlcv.defs.backfill_progress import log_backfill_progress
from k2_ohlcv.defs.failures import convert_errors
from k2_ohlcv.defs.freshness import freshness_policy
from k2_ohlcv.defs.log_progress import log_progress
from k2_ohlcv.defs.partitions import (
    first_day,
    parse_days,
    partition_mapping,
    partitions_definition,
    selected_partitions,
)
from k2_ohlcv.defs.resources import LakeResource, SparkResource
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.domain.window_counts import WindowCounts
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.history_bounds import HistoryBounds
from k2_ohlcv.lake.metadata.table_stats import count_rows_per_partition
from k2_ohlcv.lake.schemas import CANDLE_SPECS, TRADES_TABLE
from k2_ohlcv.operations.reports import RefusedWindowsError
from k2_ohlcv.settings import Settings

if TYPE_CHECKING:
    from k2_ohlcv.operations.reports import PartitionReport, ReconcileReport


#: A run of more partitions records fewer numbers of each.
MAX_DETAILED_PARTITIONS = 31
#: The metadata entry with the window counts of the whole run, in a run of many partitions.
RUN_COUNTS = "run_counts"


class Mode(Enum):
    """Which windows a run reconciles. The launchpad shows the names of the members."""

    rebuild = "rebuild"
    refresh = "refresh"


class CandlesConfig(dg.Config):
    """The run config of a candle table."""

    mode: Mode = Field(
        default=Mode.rebuild,
        description="rebuild: all windows of the chosen partitions. refresh: the dirty windows, in whatever "
        "partitions they are.",
    )
    extra_days: list[str] = Field(
        default=[],
        description="rebuild: days besides the chosen partitions, each as FIRST/END, such as "
        "2013-11-25/2013-12-01. The end is not included.",
    )
    skip_expired: bool = Field(
        default=False,
        description="rebuild: leave out partitions before frozen_before or expired_before, instead of "
        "refusing them.",
    )


def candles_asset(timeframe: Timeframe, settings: Settings) -> dg.AssetsDefinition:
    """The candle table of a timeframe."""
    partitions = partitions_definition(timeframe.grain, first_day(timeframe, settings))

    @table_asset(
        CANDLE_SPECS[timeframe.name],
        kinds={"iceberg", "pyspark"},
        tags={"k2/timeframe": timeframe.name},
        deps=[dg.AssetDep(TRADES_TABLE, partition_mapping=partition_mapping(timeframe))],
        partitions_def=partitions,
        backfill_policy=candles_backfill_policy(timeframe.grain, settings),
        freshness_policy=freshness_policy(timeframe, settings.refresh_seconds),
        # Shorter windows first: longer ones of the same run are rolled up from them.
        priority=-TIMEFRAMES.index(timeframe),
        description=f"Candles of {timeframe.name}, made equal to the trades of the chosen "
        f"{timeframe.grain.value}s.",
    )
    def candles(
        context: dg.AssetExecutionContext, config: CandlesConfig, lake: LakeResource, spark: SparkResource
    ) -> dg.MaterializeResult[Any]:
        with convert_errors(context), checks.record_refused_checks(context, timeframe):
            logs.set_run_snapshot(context.run.run_id, lake.lake.trades().metadata.current_snapshot_id)
            try:
                report = _reconcile(context, config, lake.lake, spark, timeframe)
            except RefusedWindowsError as refused:
                context.log.error(str(refused))
                context.instance.add_run_tags(context.run.run_id, {run_tags.REFUSED_TAG: "true"})
                report = refused.report
                if not checks.has_checks(context, timeframe, refused.checks):
                    # No check of this run can fail in place of the step.
                    _log_summary(context, config.mode, report)
                    _materialize_changed(context, lake.lake, report, partitions, config.mode)
                    raise
            spark.run_state(context).reconciled[timeframe.name] = report.reconciled_windows
        _log_summary(context, config.mode, report)
        log_backfill_progress(context, lake.lake, timeframe)
        return _record_numbers(context, lake.lake, report, partitions, config.mode)

    return candles


def _log_summary(context: dg.AssetExecutionContext, mode: Mode, report: "ReconcileReport") -> None:
    """Log what the run did in one line."""
    counts = {
        **report.counts.as_metadata(),
        "trades_read": report.trades_read,
        "windows_refused": len(report.refused),
    }
    event = "candles refreshed" if mode is Mode.refresh else "candles rebuilt"
    log_summary(context, event, counts, report.trades_snapshot, report.seconds)


def _materialize_changed(
    context: dg.AssetExecutionContext,
    lake: Lake,
    report: "ReconcileReport",
    partitions: dg.PartitionsDefinition[Any],
    mode: Mode,
) -> None:
    """Record each changed partition as materialized, in a run that fails because it refused windows."""
    timeframe, numbers = report.timeframe, _run_numbers(mode, report)
    rows = count_rows_per_partition(lake.candles(timeframe))
    for part in report.partitions:
        key = timeframe.grain.key(part.partition)
        if partitions.has_partition_key(key) and part.counts.written:
            metadata = {**numbers, **_partition_numbers(part, rows.get(key, 0))}
            context.log_event(dg.AssetMaterialization(timeframe.table, partition=key, metadata=metadata))


def _reconcile(
    context: dg.AssetExecutionContext,
    config: CandlesConfig,
    lake: Lake,
    spark: SparkResource,
    timeframe: Timeframe,
) -> "ReconcileReport":
    from k2_ohlcv.operations.reconcile import rebuild, refresh

    engine, cache = spark.engine, spark.run_state(context).windows

    if config.mode is Mode.refresh:
        logs.report_progress(f"{timeframe.table}: finding dirty windows")
        return refresh(lake, engine, timeframe, cache=cache, progress=log_progress(context))
    chosen = [
        *selected_partitions(timeframe.grain, context.partition_time_window),
        *parse_days(config.extra_days),
    ]
    if config.skip_expired:
        bounds = HistoryBounds.from_tables(lake.candles(timeframe), lake.trades(), timeframe)
        chosen = [p for p in timeframe.grain.partitions(chosen) if bounds.clip([p])]
    logs.report_progress(f"{timeframe.table}: {len(chosen)} {timeframe.grain.value}s")
    report = rebuild(lake, engine, timeframe, chosen, cache=cache, progress=log_progress(context))
    if not report.partitions:
        context.log.info("No trades in the chosen partitions: nothing to compute.")
    return report


def _run_numbers(mode: Mode, report: "ReconcileReport") -> dict[str, Any]:
    """The numbers of the whole run. Snapshot ids are text, as JavaScript would round such long numbers."""
    numbers: dict[str, Any] = {
        "mode": mode.value,
        "seconds": round(report.seconds, 3),
        "trades_read": report.trades_read,
        "trades_per_second": round(report.trades_read / max(report.seconds, 1e-3)),
        "trades_snapshot": str(report.trades_snapshot),
        "watermark_moved": report.watermark_moved,
        "committed": report.committed,
        "windows_refused": len(report.refused),
    }
    if mode is Mode.refresh:
        numbers["refresh"] = dg.MetadataValue.json(_with_text_ids(report.as_json()))
    return numbers


def _with_text_ids(numbers: Mapping[str, object]) -> dict[str, object]:
    return {
        name: str(value) if name in {"from", "to"} and value else value for name, value in numbers.items()
    }


def _has_many_partitions(context: dg.AssetExecutionContext, report: "ReconcileReport") -> bool:
    """Whether a dozen entries of metadata for each partition would cost more than the candles."""
    return max(len(context.partition_keys), len(report.partitions)) > MAX_DETAILED_PARTITIONS


def _record_numbers(
    context: dg.AssetExecutionContext,
    lake: Lake,
    report: "ReconcileReport",
    partitions: dg.PartitionsDefinition[Any],
    mode: Mode,
) -> dg.MaterializeResult[Any]:
    """Record the numbers of the run and of each partition.

    The run names only some of its partitions. Each other one that changed gets its own materialization; in a
    rebuild, each other one that the run reconciled. In a run of many partitions the last one that the run
    names has the run's numbers, once.
    """
    timeframe, named, numbers = report.timeframe, context.partition_keys, _run_numbers(mode, report)
    rows = count_rows_per_partition(lake.candles(timeframe))
    parts = {timeframe.grain.key(part.partition): part for part in report.partitions}
    is_many = _has_many_partitions(context, report)
    describe = _short_numbers if is_many else _partition_numbers
    for key in named:
        context.add_asset_metadata(describe(parts.get(key), rows.get(key, 0)), partition_key=key)
    if is_many:
        totals = dg.MetadataValue.json(report.counts.as_json())
        context.add_asset_metadata({**numbers, RUN_COUNTS: totals}, partition_key=named[-1])
    for key in sorted(parts.keys() - set(named)):
        part = parts[key]
        if partitions.has_partition_key(key) and (mode is Mode.rebuild or part.counts.written):
            metadata = {**({} if is_many else numbers), **describe(part, rows.get(key, 0))}
            context.log_event(dg.AssetMaterialization(timeframe.table, partition=key, metadata=metadata))
    # Dagster copies a result's metadata to every partition of a range.
    return dg.MaterializeResult(metadata=None if is_many else numbers)


def _partition_numbers(part: "PartitionReport | None", rows: int) -> dict[str, int]:
    counts = part.counts if part else WindowCounts()
    return {**counts.as_metadata(), "trades": part.trades if part else 0, "dagster/partition_row_count": rows}


def _short_numbers(part: "PartitionReport | None", rows: int) -> dict[str, int]:
    """The numbers of a partition in a run of many."""
    written, trades = (part.counts.written, part.trades) if part else (0, 0)
    return {"windows_written": written, "trades": trades, "dagster/partition_row_count": rows}
