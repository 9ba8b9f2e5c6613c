"""The candle assets: one factory. What they do is `reconcile`.

That is imported when a step runs: the graph loads without it in half the time.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from k2_ohlcv import logs
from k2_ohlcv.defs import checks, named
from k2_ohlcv.defs.failures import explained
from k2_ohlcv.defs.partitions import first_day, mapping, partitions, selected
from k2_ohlcv.defs.patience import policy
from k2_ohlcv.defs.resources import LakeResource, SparkResource
from k2_ohlcv.defs.table import table_asset, tell
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import Timeframe, parse_day
from k2_ohlcv.domain.window import Interval, midnight
from k2_ohlcv.domain.window_counts import WindowCounts
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.inventory import rows_per_partition
from k2_ohlcv.lake.lines import Lines
from k2_ohlcv.lake.schemas import CANDLES, TRADES_TABLE
from k2_ohlcv.report import RefusedWindowsError
from k2_ohlcv.settings import Settings

if TYPE_CHECKING:
    from k2_ohlcv.report import PartitionReport, Report


class Mode(Enum):
    """Which windows a run makes equal to the trades. The launchpad takes the members' names."""

    rebuild = "rebuild"
    refresh = "refresh"


class CandlesConfig(dg.Config):
    """What the launchpad offers."""

    mode: Mode = Field(
        default=Mode.rebuild,
        description="rebuild: the whole of the chosen partitions. refresh: what changed in the trades since "
        "the table's watermark, in whatever partitions that is.",
    )
    also: list[str] = Field(
        default=[],
        description="rebuild: days besides the chosen partitions, each as FIRST/END, such as "
        "2013-11-25/2013-12-01, the end not included.",
    )
    skip_expired: bool = Field(
        default=False,
        description="rebuild: leave partitions behind the lines of retention out, instead of refusing them.",
    )


def candles_asset(timeframe: Timeframe, settings: Settings) -> dg.AssetsDefinition:
    """The candle table of a timeframe."""
    there = partitions(timeframe.grain, first_day(timeframe, settings))

    @table_asset(
        CANDLES[timeframe.name],
        kinds={"iceberg", "pyspark"},
        tags={"k2/timeframe": timeframe.name},
        deps=[dg.AssetDep(TRADES_TABLE, partition_mapping=mapping(timeframe))],
        partitions_def=there,
        freshness_policy=policy(timeframe, settings.refresh_seconds),
        description=f"Candles of {timeframe.name}, made equal to the trades of the chosen "
        f"{timeframe.grain.value}s in one commit.",
    )
    def candles(
        context: dg.AssetExecutionContext, config: CandlesConfig, lake: LakeResource, spark: SparkResource
    ) -> dg.MaterializeResult[Any]:
        with explained(context), checks.recorded(context, timeframe):
            logs.pin(context.run.run_id, lake.lake.trades().metadata.current_snapshot_id)
            try:
                report = _reconciled(context, config, lake.lake, spark, timeframe)
            except RefusedWindowsError as refused:
                context.log.error(str(refused))
                context.instance.add_run_tags(context.run.run_id, {named.REFUSED_TAG: "true"})
                report = refused.report
                if not checks.are_run(context, timeframe, refused.checks):
                    # Nothing else of this run would fail.
                    _log_summary(context, config.mode, report)
                    _materialize_changed(context, lake.lake, report, there, config.mode)
                    raise
            spark.run_state(context).reconciled[timeframe.name] = report.windows
        _log_summary(context, config.mode, report)
        whole = _run_numbers(config.mode, report)
        _add_partitions(context, lake.lake, report, there, whole, besides=config.mode is Mode.rebuild)
        return dg.MaterializeResult(metadata=whole)

    return candles


def _log_summary(context: dg.AssetExecutionContext, mode: Mode, report: "Report") -> None:
    """One line of what the run did."""
    counts = {
        **report.counts.as_metadata(),
        "trades_read": report.trades_read,
        "windows_refused": len(report.refused),
    }
    event = "candles refreshed" if mode is Mode.refresh else "candles rebuilt"
    tell(context, event, counts, report.trades_snapshot, report.seconds)


def _materialize_changed(
    context: dg.AssetExecutionContext,
    lake: Lake,
    report: "Report",
    there: dg.PartitionsDefinition[Any],
    mode: Mode,
) -> None:
    """A materialization for each partition that changed, in a run that fails for windows it refused."""
    timeframe, whole = report.timeframe, _run_numbers(mode, report)
    rows = rows_per_partition(lake.candles(timeframe))
    for part in report.partitions:
        key = timeframe.grain.key(part.partition)
        if there.has_partition_key(key) and part.counts.written:
            metadata = {**whole, **_numbers(part, rows.get(key, 0))}
            context.log_event(dg.AssetMaterialization(timeframe.table, partition=key, metadata=metadata))


def days(also: Sequence[str]) -> list[Interval]:
    """The days of `CandlesConfig.also`.

    Raises:
        UsageError: one is not written as FIRST/END.
    """
    found = []
    for text in also:
        first, _, end = text.partition("/")
        start, stop = midnight(parse_day(first)), midnight(parse_day(end))
        if start >= stop:
            raise UsageError(f"{text!r} ends before it begins: write FIRST/END, the end not included")
        found.append(Interval(start, stop))
    return found


def _reconciled(
    context: dg.AssetExecutionContext,
    config: CandlesConfig,
    lake: Lake,
    spark: SparkResource,
    timeframe: Timeframe,
) -> "Report":
    from k2_ohlcv.reconcile import rebuild, refresh

    engine, cache = spark.engine, spark.run_state(context).windows

    if config.mode is Mode.refresh:
        logs.progress(f"{timeframe.table}: looking for what changed")
        return refresh(lake, engine, timeframe, cache=cache, progress=logs.progress)
    chosen = [*selected(timeframe.grain, context.partition_time_window), *days(config.also)]
    if config.skip_expired:
        lines = Lines.of(lake.candles(timeframe), lake.trades(), timeframe)
        chosen = [p for p in timeframe.grain.partitions(chosen) if lines.ahead([p])]
    logs.progress(f"{timeframe.table}: {len(chosen)} {timeframe.grain.value}s")
    report = rebuild(lake, engine, timeframe, chosen, cache=cache, progress=logs.progress)
    if not report.partitions:
        context.log.info("No trades in the chosen partitions: nothing to compute.")
    return report


def _run_numbers(mode: Mode, report: "Report") -> dict[str, Any]:
    """The numbers of the whole run. Snapshot ids are text: they are too long for a JavaScript number."""
    numbers: dict[str, Any] = {
        "mode": mode.value,
        "seconds": round(report.seconds, 3),
        "trades_read": report.trades_read,
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


def _add_partitions(
    context: dg.AssetExecutionContext,
    lake: Lake,
    report: "Report",
    there: dg.PartitionsDefinition[Any],
    whole: Mapping[str, Any],
    *,
    besides: bool,
) -> None:
    """Each partition's own numbers: the result's metadata is copied to every partition of a range.

    Partitions that the run does not name get a materialization of their own: those that changed, or with
    `besides` all that were looked at.
    """
    timeframe = report.timeframe
    rows = rows_per_partition(lake.candles(timeframe))
    done = {timeframe.grain.key(part.partition): part for part in report.partitions}
    chosen = context.partition_keys
    for key in chosen:
        context.add_asset_metadata(_numbers(done.get(key), rows.get(key, 0)), partition_key=key)
    for key in done.keys() - set(chosen):
        part = done[key]
        if there.has_partition_key(key) and (besides or part.counts.written):
            context.log_event(
                dg.AssetMaterialization(
                    timeframe.table, partition=key, metadata={**whole, **_numbers(part, rows.get(key, 0))}
                )
            )


def _numbers(part: "PartitionReport | None", rows: int) -> dict[str, int]:
    counts = part.counts if part else WindowCounts()
    return {**counts.as_metadata(), "trades": part.trades if part else 0, "dagster/partition_row_count": rows}
