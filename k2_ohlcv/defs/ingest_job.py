"""The job that ingests landing files by name, whatever their days. The landing sensor requests its runs."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from k2_ohlcv.defs.assets.common import RETRY_POLICY
from k2_ohlcv.defs.assets.trades import log_ingestion, partition_numbers, read_snapshots, run_numbers
from k2_ohlcv.defs.failures import convert_errors
from k2_ohlcv.defs.file_failures import IngestResult, add_failure, ingest_each, report_unterminated
from k2_ohlcv.defs.resources import LakeResource
from k2_ohlcv.defs.run_tags import TABLE_TAG
from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.domain.printable import make_printable
from k2_ohlcv.lake.metadata.pending_changes import reject_replacing_trades
from k2_ohlcv.lake.metadata.table_stats import count_rows_per_partition
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.sources.landing_folder import find_file

if TYPE_CHECKING:
    from k2_ohlcv.operations.ingest import IngestReport

INGEST_FILES_JOB = "ingest_files"
INGEST_OP = "read_files"
#: The tag of a run that has read all of its files, even if some of them failed.
LANDING_DONE_TAG = "k2/landing-done"
# Characters: enough for a path and a sentence.
_MAX_REASON = 5_000


class FilesConfig(dg.Config):
    """The run config of the job."""

    files: list[str] = Field(description="Files to ingest, as EXCHANGE/SYMBOL/file in the landing folder.")
    settled: list[str] = Field(
        default=[],
        description="Files that have not changed for ten minutes. A last line without an end of line is a "
        "failure of these.",
    )
    refused: list[str] = Field(
        default=[],
        description="Files that cannot be ingested, each with the reason. The run fails with them.",
    )


def build_ingest_job(partitions: dg.PartitionsDefinition[Any]) -> dg.JobDefinition:
    """The job. `partitions` are those of trades."""

    @dg.op(name=INGEST_OP, pool=TRADES_TABLE, retry_policy=RETRY_POLICY)
    def read_files(context: dg.OpExecutionContext, config: FilesConfig, lake: LakeResource) -> None:
        began = time.monotonic()
        with convert_errors(context):
            before = read_snapshots(lake.lake)
            result = _ingest(context, lake, config)
            numbers = run_numbers(lake.lake, result.reports, before, len(config.files))
            _materialize(context, lake, result.reports, numbers, partitions)
        log_ingestion(context, result, numbers, began)
        context.instance.add_run_tags(context.run.run_id, {LANDING_DONE_TAG: "true"})
        result.raise_failed(len(config.files) + len(config.refused))

    @dg.job(
        name=INGEST_FILES_JOB,
        tags={TABLE_TAG: TRADES_TABLE},
        description="Add the trades of landing files to the trades table, whatever their days.",
    )
    def ingest_files() -> None:
        read_files()

    return ingest_files


def _ingest(context: dg.OpExecutionContext, lake: LakeResource, config: FilesConfig) -> IngestResult:
    landing, refused = lake.settings.landing, IngestResult()
    for text in config.refused:
        add_failure(context, refused, make_printable(text), make_printable(text, _MAX_REASON))
    files = []
    for name in dict.fromkeys(config.files):
        try:
            if file := find_file(landing, name):
                files.append(file)
        except BadFileError as error:
            add_failure(context, refused, make_printable(name), str(error))
    if not files:
        context.log.info("All of the files were removed: nothing to ingest.")
        return refused
    lake.lake.reject_external_trades()  # no file is to blame for an external table
    reject_replacing_trades(lake.lake)
    result = ingest_each(context, lake, files)
    report_unterminated(context, result, {landing / name for name in config.settled})
    return IngestResult(result.reports, refused.failed + result.failed)


def _materialize(
    context: dg.OpExecutionContext,
    lake: LakeResource,
    reports: Sequence["IngestReport"],
    numbers: Mapping[str, Any],
    partitions: dg.PartitionsDefinition[Any],
) -> None:
    """Record a materialization of each partition of trades that got new trades."""
    added_per_day = Counter[date]()
    for report in reports:
        added_per_day.update(report.per_day)
    if not added_per_day:
        return
    rows = count_rows_per_partition(lake.lake.trades())
    for day, added in sorted(added_per_day.items()):
        key = day.isoformat()
        if added and partitions.has_partition_key(key):
            metadata = {**numbers, **partition_numbers(added, rows.get(key, 0))}
            context.log_event(dg.AssetMaterialization(TRADES_TABLE, partition=key, metadata=metadata))
