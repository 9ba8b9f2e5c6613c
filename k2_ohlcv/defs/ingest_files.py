"""The job that ingests landing files by name, whatever their days: what the landing sensor asks for."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from k2_ohlcv import logs
from k2_ohlcv.defs.failures import explained
from k2_ohlcv.defs.named import TABLE_TAG
from k2_ohlcv.defs.resources import LakeResource
from k2_ohlcv.defs.table import RETRIES, tell
from k2_ohlcv.defs.trades import COUNTS, partition_numbers, run_numbers, snapshots
from k2_ohlcv.domain.errors import BadFileError, K2Error, UsageError
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.inventory import rows_per_partition
from k2_ohlcv.lake.schemas import TRADES_TABLE

if TYPE_CHECKING:
    from k2_ohlcv.ingest import IngestReport

INGEST_FILES = "ingest_files"
OP = "read_files"
#: On a run that has been through all of its files, be it that some of them failed.
DONE_TAG = "k2/landing-done"


class FilesConfig(dg.Config):
    """What the launchpad offers."""

    files: list[str] = Field(description="Files to ingest, as EXCHANGE/SYMBOL/file in the landing folder.")


def build(there: dg.PartitionsDefinition[Any]) -> dg.JobDefinition:
    """The job; `there` are the partitions of trades."""

    @dg.op(name=OP, pool=TRADES_TABLE, retry_policy=RETRIES)
    def read_files(context: dg.OpExecutionContext, config: FilesConfig, lake: LakeResource) -> None:
        began = time.monotonic()
        with explained(context):
            before = snapshots(lake.lake)
            reports, failed = _each(context, lake, config.files)
            whole = run_numbers(lake.lake, reports, before, len(config.files))
            _materialize(context, lake, reports, whole, there)
        counts = {name: whole[f"run_{name}"] for name in COUNTS}
        snapshot = reports[-1].snapshot if reports else None
        tell(context, "trades ingested", counts, snapshot, time.monotonic() - began)
        context.instance.add_run_tags(context.run.run_id, {DONE_TAG: "true"})
        if failed:
            said = "; ".join(failed.values())
            raise dg.Failure(
                f"{len(failed)} of {len(config.files)} files failed, and wait to be changed: {said}",
                allow_retries=False,
            )

    @dg.job(
        name=INGEST_FILES,
        tags={TABLE_TAG: TRADES_TABLE},
        description="Add the trades of landing files to the trades table, whatever days they are of.",
    )
    def ingest_files() -> None:
        read_files()

    return ingest_files


def _each(
    context: dg.OpExecutionContext, lake: LakeResource, names: Sequence[str]
) -> tuple[list["IngestReport"], dict[str, str]]:
    """All files at once; where one of them is bad, one by one, so that it holds up no other.

    Returns:
        The reports, and what was wrong with each file that failed.
    """
    landing = lake.settings.landing
    files = [landing / name for name in names if (landing / name).exists()]
    if not files:
        context.log.info("None of the files is there any more: nothing to ingest.")
        return [], {}
    try:
        return [_ingest(lake, files)], {}
    except (BadFileError, UsageError) as error:
        if len(files) == 1:
            _report(context, files[0], error)
            return [], {str(files[0]): str(error)}
    reports, failed = [], {}
    for file in files:
        try:
            reports.append(_ingest(lake, [file]))
        except (BadFileError, UsageError) as error:
            _report(context, file, error)
            failed[str(file)] = str(error)
    return reports, failed


def _report(context: dg.OpExecutionContext, file: Path, error: K2Error) -> None:
    fields = {"event": "file failed", "file": str(file), "error": str(error), "table": TRADES_TABLE}
    context.log.error(f"file failed: {error}", extra={logs.FIELDS: fields})


def _ingest(lake: LakeResource, files: Sequence[Path]) -> "IngestReport":
    from k2_ohlcv.ingest import ingest

    settings = lake.settings
    return ingest(lake.lake, files, landing=settings.landing, workspace=settings.home / "work")


def _materialize(
    context: dg.OpExecutionContext,
    lake: LakeResource,
    reports: Sequence["IngestReport"],
    whole: Mapping[str, Any],
    there: dg.PartitionsDefinition[Any],
) -> None:
    """A materialization of each partition of trades that grew."""
    grown = Counter[date]()
    for report in reports:
        grown.update(report.per_day)
    if not grown:
        return
    rows = rows_per_partition(lake.lake.trades(), "timestamp", Grain.DAY)
    for day, added in sorted(grown.items()):
        key = day.isoformat()
        if added and there.has_partition_key(key):
            numbers = {**whole, **partition_numbers(added, rows.get(key, 0))}
            context.log_event(dg.AssetMaterialization(TRADES_TABLE, partition=key, metadata=numbers))
