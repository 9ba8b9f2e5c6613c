"""The trades asset, fed from landing files. How several files are ingested is in `file_failures`."""

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

#: The metadata that lists the trades snapshots which a run of ours made.
SNAPSHOTS_METADATA_KEY = "snapshots_made"
COUNT_FIELDS = ("trades_read", "trades_added", "trades_known", "conflicts", "rejected")


def trades_asset(settings: Settings) -> dg.AssetsDefinition:
    """The trades table."""

    @table_asset(
        TRADES_SPEC,
        kinds={"iceberg"},
        tags={"k2/table": "trades"},
        partitions_def=partitions_definition(Grain.DAY, first_day(None, settings)),
        description="Trades, the truth: each once by exchange, symbol and trade id. "
        "A run reads the files under landing/EXCHANGE/SYMBOL/ for the chosen days.",
    )
    def trades(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[Any]:
        began = time.monotonic()
        with convert_errors(context):
            landing = lake.settings.landing
            listing = list_files(landing)
            if not listing.files and not listing.rejected:
                context.log.info(f"No files under {landing}: nothing to ingest.")
                return dg.MaterializeResult(metadata={"files": 0, "trades_added": 0})
            lake.lake.reject_external_trades()  # a table that is never written to is no failure of a file
            reject_replacing_trades(lake.lake)
            before = read_snapshots(lake.lake)
            done = _ingest_days(context, lake, listing)
        total = len(listing.files) + len(listing.rejected)
        numbers = run_numbers(lake.lake, done.reports, before, total)
        counts = {name: numbers[f"run_{name}"] for name in COUNT_FIELDS}
        snapshot = done.reports[-1].snapshot if done.reports else None
        log_summary(context, "trades ingested", counts, snapshot, time.monotonic() - began)
        days_now = _day_numbers(lake.lake, done.reports, context.partition_keys)
        if done.failed:
            # A failed step's result is not kept: say here what came in with the other files.
            for key, day in days_now.items() if done.reports else ():
                context.log_event(
                    dg.AssetMaterialization(TRADES_SPEC.name, partition=key, metadata={**numbers, **day})
                )
            done.raise_failed(total)
        for key, day in days_now.items():
            context.add_asset_metadata(day, partition_key=key)
        return dg.MaterializeResult(metadata=numbers)

    return trades


def _ingest_days(
    context: dg.AssetExecutionContext, lake: LakeResource, listing: FolderListing
) -> IngestResult:
    """The files' rows of the run's days; each bad file is reported."""
    days = window_interval(context.partition_time_window)
    done = ingest_each(context, lake, listing.files, [days])
    for name, reason in listing.rejected.items():
        add_failure(context, done, name, f"{name}: {reason}")
    report_unterminated(context, done)
    return done


def _day_numbers(
    lake: Lake, reports: "Sequence[IngestReport]", keys: Sequence[str]
) -> dict[str, dict[str, int]]:
    rows = count_rows_per_partition(lake.trades())
    added = Counter[date]()
    for report in reports:
        added.update(report.per_day)
    return {key: partition_numbers(added[date.fromisoformat(key)], rows.get(key, 0)) for key in keys}


def read_snapshots(lake: Lake) -> dict[int, int]:
    """The snapshots of trades, and how many rows each added."""
    return {s.snapshot_id: _added_rows(s) for s in lake.trades().metadata.snapshots}


def _added_rows(snapshot: Snapshot) -> int:
    if snapshot.summary is None or snapshot.summary.operation == Operation.REPLACE:
        return 0  # rows that were there, in other files
    return int(snapshot.summary.get("added-records") or 0)  # a commit that only deletes says nothing of it


def run_numbers(
    lake: Lake, reports: "Sequence[IngestReport]", before: Mapping[int, int], files: int
) -> dict[str, Any]:
    """The numbers of a whole ingestion, and the snapshots that it made.

    The snapshots that came meanwhile are claimed where they add as many rows as were added: else another
    writer's are among them, and are left to be reported as such.
    """
    came = {key: rows for key, rows in read_snapshots(lake).items() if key not in before}
    counts = Counter[str]()
    for report in reports:
        counts.update(ingest_counts(report))
    made = sorted(came) if sum(came.values()) == counts["trades_added"] else []
    return {
        "files": files,
        **{f"run_{name}": counts[name] for name in COUNT_FIELDS},
        "snapshot": str(reports[-1].snapshot) if reports else "None",
        SNAPSHOTS_METADATA_KEY: dg.MetadataValue.json([str(key) for key in made]),
    }


def partition_numbers(added: int, rows: int) -> dict[str, int]:
    """A day's own numbers: trades that came, and trades that it has now."""
    return {"trades_added": added, "dagster/partition_row_count": rows}


def ingest_counts(report: "IngestReport") -> dict[str, int]:
    """What an ingestion did, in numbers."""
    counts = (report.read, report.added, report.duplicates, report.conflicts, report.rejected)
    return dict(zip(COUNT_FIELDS, counts, strict=True))
