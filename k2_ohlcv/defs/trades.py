"""The trades asset, fed from landing files. What it does is `ingest`.

That is imported when a step runs: the graph loads without it in half the time.
"""

import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from k2_ohlcv import logs
from k2_ohlcv.defs.failures import explained
from k2_ohlcv.defs.partitions import first_day, interval, partitions
from k2_ohlcv.defs.resources import LakeResource
from k2_ohlcv.defs.table import table_asset, tell
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.inventory import rows_per_partition
from k2_ohlcv.lake.schemas import TRADES

if TYPE_CHECKING:
    from k2_ohlcv.ingest import IngestReport

#: Files that a copying program has not finished carry such names.
_UNFINISHED = {".tmp", ".part", ".partial"}


def trades_asset(start: date | None) -> dg.AssetsDefinition:
    """The trades table."""

    @table_asset(
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
        tell(context, "trades ingested", ingested(report), report.snapshot, time.monotonic() - began)
        rows = rows_per_partition(lake.lake.trades(), "timestamp", Grain.DAY)
        for key in context.partition_keys:
            numbers = partition_numbers(report.per_day.get(date.fromisoformat(key), 0), rows.get(key, 0))
            context.add_asset_metadata(numbers, partition_key=key)
        run = {f"run_{name}": count for name, count in ingested(report).items()}
        return dg.MaterializeResult(metadata={"files": len(files), **run, "snapshot": str(report.snapshot)})

    return trades


def landing_files(landing: Path) -> list[Path]:
    """The files that wait to be ingested, in a steady order, without hidden and unfinished ones."""
    return sorted(
        path
        for path in landing.rglob("*")
        if path.is_file()
        and path.suffix not in _UNFINISHED
        and not any(part.startswith(".") for part in path.relative_to(landing).parts)
    )


def partition_numbers(added: int, rows: int) -> dict[str, int]:
    """A day's own numbers: trades that came, and trades that it has now."""
    return {"trades_added": added, "dagster/partition_row_count": rows}


def ingested(report: "IngestReport") -> dict[str, int]:
    """What an ingestion did, in numbers."""
    return {
        "trades_read": report.read,
        "trades_added": report.added,
        "trades_known": report.known,
        "conflicts": report.conflicts,
        "rejected": report.rejected,
    }
