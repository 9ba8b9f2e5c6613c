"""The trades asset, filled from landing files. Ingestion of several files is in `file_failures`."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
from pyiceberg.table.snapshots import Operation, Snapshot

from k2_ohlcv.defs.assets.common import log_summary, table_asset
from k2_ohlcv.defs.failures import convert_errors
from k2_ohlcv.defs.file_failures import IngestResult, add_failure, ingest_each, report_unterminated
from k2_ohlcv.defs.partitions import first_day, partitions_definition, window_interval
from k2_ohlcv.defs.resources import LakeResource
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.pending_changes import reject_replacing_trades
from k2_ohlcv.lake.metadata.table_stats import count_rows_per_partition
from k2_ohlcv.lake.schemas import TRADES_SPEC
from k2_ohlcv.settings import Settings
from k2_ohlcv.sources.landing_folder import FolderListing, list_files

if TYPE_CHECKING:
    from k2_ohlcv.operations.ingest import IngestReport

#: The metadata entry that lists the trades snapshots which a run committed.
SNAPSHOTS_METADATA_KEY = "snapshots_made"
COUNT_FIELDS = ("trades_read", "trades_added", "trades_known", "conflicts", "rejected")


def trades_asset(settings: Settings) -> dg.AssetsDefinition:
    """The trades table."""

    @table_asset(
        TRADES_SPEC,
        kinds={"iceberg"},
        tags={"k2/table": "trades"},
        partitions_def=partitions_definition(Grain.DAY, first_day(None, settings)),
        backfill_policy=dg.BackfillPolicy.single_run(),  # each run reads all landing files
        description="Trades, from which all candles are made. Each is stored once by exchange, symbol and "
        "trade id. A run reads the files under landing/EXCHANGE/SYMBOL/ for the chosen days.",
    )
    def trades(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[Any]:
        began = time.monotonic()
        with convert_errors(context):
            landing = lake.settings.landing
            listing = list_files(landing)
            if not listing.files and not listing.rejected:
                context.log.info(f"No files under {landing}: nothing to ingest.")
                return dg.MaterializeResult(metadata={"files": 0, "trades_added": 0})
            lake.lake.reject_external_trades()  # no file is to blame for an external table
            reject_replacing_trades(lake.lake)
            before = read_snapshots(lake.lake)
            result = _ingest_days(context, lake, listing)
        total = len(listing.files) + len(listing.rejected)
        numbers = run_numbers(lake.lake, result.reports, before, total)
        log_ingestion(context, result, numbers, began)
        days = _day_numbers(lake.lake, result.reports, context.partition_keys)
        if result.failed:
            _materialize_days(context, days if result.reports else {}, numbers)
            result.raise_failed(total)
        for key, day in days.items():
            context.add_asset_metadata(day, partition_key=key)
        return dg.MaterializeResult(metadata=numbers)

    return trades


def log_ingestion(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    result: IngestResult,
    numbers: Mapping[str, Any],
    began: float,
) -> None:
    """Log what an ingestion did in one line. `began` is its start on the monotonic clock, in seconds."""
    counts = {name: numbers[f"run_{name}"] for name in COUNT_FIELDS}
    snapshot = result.reports[-1].snapshot if result.reports else None
    log_summary(context, "trades ingested", counts, snapshot, time.monotonic() - began)


def _materialize_days(
    context: dg.AssetExecutionContext, days: Mapping[str, Mapping[str, int]], numbers: Mapping[str, Any]
) -> None:
    """Record what the good files added. Dagster drops the result of a step that fails."""
    for key, day in days.items():
        context.log_event(
            dg.AssetMaterialization(TRADES_SPEC.name, partition=key, metadata={**numbers, **day})
        )


def _ingest_days(
    context: dg.AssetExecutionContext, lake: LakeResource, listing: FolderListing
) -> IngestResult:
    """Ingest the rows of the run's days. Each bad file is reported."""
    days = window_interval(context.partition_time_window)
    result = ingest_each(context, lake, listing.files, [days])
    for name, reason in listing.rejected.items():
        add_failure(context, result, name, f"{name}: {reason}")
    report_unterminated(context, result)
    return result


def _day_numbers(
    lake: Lake, reports: "Sequence[IngestReport]", keys: Sequence[str]
) -> dict[str, dict[str, int]]:
    rows = count_rows_per_partition(lake.trades())
    added = Counter[date]()
    for report in reports:
        added.update(report.per_day)
    return {key: partition_numbers(added[date.fromisoformat(key)], rows.get(key, 0)) for key in keys}


def read_snapshots(lake: Lake) -> dict[int, int]:
    """How many rows each snapshot of trades added, by snapshot id."""
    return {s.snapshot_id: _added_rows(s) for s in lake.trades().metadata.snapshots}


def _added_rows(snapshot: Snapshot) -> int:
    if snapshot.summary is None or snapshot.summary.operation == Operation.REPLACE:
        return 0  # a compaction only rewrites rows
    return int(snapshot.summary.get("added-records") or 0)  # a commit that only deletes has no such entry


def run_numbers(
    lake: Lake, reports: "Sequence[IngestReport]", before: Mapping[int, int], files: int
) -> dict[str, Any]:
    """The numbers of a whole ingestion, and the snapshots that it committed.

    New snapshots are taken for the run's own where their rows are as many as the run added. Otherwise
    another writer committed some of them. The sensor `external_trades_commits` then reports them.
    """
    new = {key: rows for key, rows in read_snapshots(lake).items() if key not in before}
    counts = Counter[str]()
    for report in reports:
        counts.update(ingest_counts(report))
    own = sorted(new) if sum(new.values()) == counts["trades_added"] else []
    return {
        "files": files,
        **{f"run_{name}": counts[name] for name in COUNT_FIELDS},
        "snapshot": str(reports[-1].snapshot) if reports else "None",
        SNAPSHOTS_METADATA_KEY: dg.MetadataValue.json([str(key) for key in own]),
    }


def partition_numbers(added: int, rows: int) -> dict[str, int]:
    """The numbers of a day: trades added, and trades stored now."""
    return {"trades_added": added, "dagster/partition_row_count": rows}


def ingest_counts(report: "IngestReport") -> dict[str, int]:
    """The counts of an ingestion, by the names in `COUNT_FIELDS`."""
    counts = (report.read, report.added, report.duplicates, report.conflicts, report.rejected)
    return dict(zip(COUNT_FIELDS, counts, strict=True))
