"""Assets: the trades table, and one factory for the candle tables. What they do is `ingest` and `reconcile`.

Those are imported when a step runs: the graph loads without them in half the time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pyiceberg.schema import Schema

from k2_ohlcv import logs
from k2_ohlcv.defs.failures import explained
from k2_ohlcv.defs.partitions import first_day, interval, mapping, partitions, selected
from k2_ohlcv.defs.resources import LakeResource
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.engine.resource import SparkResource
from k2_ohlcv.lake.schemas import CANDLES, NAMESPACE, TRADES, TRADES_TABLE, Contract

if TYPE_CHECKING:
    from k2_ohlcv.ingest import IngestReport
    from k2_ohlcv.reconcile import Report

GROUP = "market_data"
OWNERS = ("team:market-data",)
#: Long enough for a conflict or an outage of the catalog to pass, short enough to stay fresh.
RETRIES = dg.RetryPolicy(max_retries=2, delay=60)

#: Files that a copying program has not finished carry such names.
_UNFINISHED = {".tmp", ".part", ".partial"}


def build(start: date | None) -> list[dg.AssetsDefinition]:
    """Every table of the graph. `start` is `Settings.start_date`."""
    return [trades_asset(start), *(candles_asset(timeframe, start) for timeframe in TIMEFRAMES)]


def trades_asset(start: date | None) -> dg.AssetsDefinition:
    """The trades table, fed from landing files."""

    @_table(
        TRADES,
        kinds={"iceberg"},
        tags={"k2/table": "trades"},
        partitions_def=partitions(Grain.DAY, first_day(None, start)),
        description="Trades, the truth: each once by exchange, symbol and trade id. "
        "A run reads the files under landing/EXCHANGE/SYMBOL/ for the chosen days.",
    )
    def trades(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[Any]:
        from k2_ohlcv.ingest import ingest

        began = time.monotonic()
        with explained(context):
            landing = lake.settings.landing
            files = landing_files(landing)
            days = interval(context.partition_time_window)
            if not files:
                context.log.info(f"No files under {landing}: nothing to ingest.")
                return dg.MaterializeResult(metadata={"files": 0, "trades_added": 0})
            report = ingest(
                lake.lake,
                files,
                days=[days],
                landing=landing,
                workspace=lake.settings.home / "work",
                progress=lambda what, rows: logs.progress(f"{rows:,} rows {what}"),
            )
        _tell(context, "trades ingested", ingested(report), report.snapshot, time.monotonic() - began)
        for key in context.partition_keys:
            added = report.per_day.get(date.fromisoformat(key), 0)
            context.add_asset_metadata({"trades_added": added}, partition_key=key)
        run = {f"run_{name}": count for name, count in ingested(report).items()}
        return dg.MaterializeResult(metadata={"files": len(files), **run, "snapshot": str(report.snapshot)})

    return trades


def candles_asset(timeframe: Timeframe, start: date | None) -> dg.AssetsDefinition:
    """The candle table of a timeframe."""

    @_table(
        CANDLES[timeframe.name],
        kinds={"iceberg", "pyspark"},
        tags={"k2/timeframe": timeframe.name},
        deps=[dg.AssetDep(TRADES_TABLE, partition_mapping=mapping(timeframe))],
        partitions_def=partitions(timeframe.grain, first_day(timeframe, start)),
        description=f"Candles of {timeframe.name}, made equal to the trades of the chosen "
        f"{timeframe.grain.value}s in one commit.",
    )
    def candles(
        context: dg.AssetExecutionContext, lake: LakeResource, spark: SparkResource
    ) -> dg.MaterializeResult[Any]:
        from k2_ohlcv.reconcile import rebuild

        with explained(context):
            engine = spark.engine
            engine.share = _timeframes(context)
            chosen = selected(timeframe.grain, context.partition_time_window)
            logs.progress(f"{timeframe.table}: {len(chosen)} {timeframe.grain.value}s")
            report = rebuild(lake.lake, engine, timeframe, chosen, progress=logs.progress)
        if not report.partitions:
            context.log.info("No trades in the chosen partitions: nothing to compute.")
        counts = {**rebuilt(report), "trades_read": report.trades_read}
        _tell(context, "candles rebuilt", counts, report.trades_snapshot, report.seconds)
        _add_partitions(context, timeframe, report)
        return dg.MaterializeResult(
            metadata={
                "seconds": round(report.seconds, 3),
                "trades_read": report.trades_read,
                "trades_snapshot": str(report.trades_snapshot),  # too long for a JavaScript number
                "watermark_moved": report.watermark_moved,
                "committed": report.committed,
            }
        )

    return candles


def landing_files(landing: Path) -> list[Path]:
    """The files that wait to be ingested, in a steady order, without hidden and unfinished ones."""
    return sorted(
        path
        for path in landing.rglob("*")
        if path.is_file()
        and path.suffix not in _UNFINISHED
        and not any(part.startswith(".") for part in path.relative_to(landing).parts)
    )


def rebuilt(report: "Report") -> dict[str, int]:
    """What a rebuild did to windows, in numbers."""
    return {
        "windows_added": report.added,
        "windows_changed": report.changed,
        "windows_removed": report.removed,
        "windows_unchanged": report.unchanged,
    }


def ingested(report: "IngestReport") -> dict[str, int]:
    """What an ingestion did, in numbers."""
    return {
        "trades_read": report.read,
        "trades_added": report.added,
        "trades_known": report.known,
        "conflicts": report.conflicts,
        "rejected": report.rejected,
    }


def _add_partitions(context: dg.AssetExecutionContext, timeframe: Timeframe, report: "Report") -> None:
    """Each partition's own numbers: the result's metadata is copied to every partition of a range."""
    done = {timeframe.grain.key(part.partition): part for part in report.partitions}
    for key in context.partition_keys:
        part = done.get(key)
        numbers = {
            "windows_added": part.added if part else 0,
            "windows_changed": part.changed if part else 0,
            "windows_removed": part.removed if part else 0,
            "windows_unchanged": part.unchanged if part else 0,
            "trades": part.trades if part else 0,
            "dagster/partition_row_count": part.rows if part else 0,
        }
        context.add_asset_metadata(numbers, partition_key=key)


def _timeframes(context: dg.AssetExecutionContext) -> frozenset[str]:
    """The timeframes that this run computes: one scan of the trades may serve several."""
    keys = context.job_def.asset_layer.selected_asset_keys
    return frozenset(t.name for t in TIMEFRAMES if dg.AssetKey(t.table) in keys)


def _tell(
    context: dg.AssetExecutionContext,
    event: str,
    counts: Mapping[str, int],
    snapshot: int | None,
    seconds: float,
) -> None:
    """One line for the run's log: in words for the UI, in fields for the JSON logs."""
    said = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count)
    fields = {"event": event, "snapshot": snapshot, "seconds": round(seconds, 3), "counts": counts}
    context.log.info(f"{event}: {said or 'nothing to do'}", extra={logs.FIELDS: fields})


def _table(
    contract: Contract,
    *,
    kinds: set[str],
    tags: Mapping[str, str],
    partitions_def: dg.PartitionsDefinition[Any],
    description: str,
    deps: Sequence[dg.AssetDep] = (),
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with what every table has."""
    return dg.asset(
        name=contract.name,
        deps=deps,
        partitions_def=partitions_def,
        description=description,
        group_name=GROUP,
        owners=OWNERS,
        kinds=kinds,
        tags=tags,
        metadata={
            "dagster/column_schema": column_schema(contract.schema),
            "dagster/table_name": f"{NAMESPACE}.{contract.name}",
        },
        backfill_policy=dg.BackfillPolicy.single_run(),
        retry_policy=RETRIES,
        pool=contract.name,  # one writer per table, across runs
    )


def column_schema(schema: Schema) -> dg.TableSchema:
    """A table's columns as Dagster shows them."""
    columns: Sequence[dg.TableColumn] = [
        dg.TableColumn(
            field.name,
            str(field.field_type),
            constraints=dg.TableColumnConstraints(nullable=not field.required),
        )
        for field in schema.fields
    ]
    return dg.TableSchema(columns=columns)
