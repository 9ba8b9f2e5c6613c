"""The job that ingests landing files by name, whatever their days: what the landing sensor asks for."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from k2_ohlcv.defs.assets.common import RETRY_POLICY, log_summary
from k2_ohlcv.defs.assets.trades import COUNT_FIELDS, partition_numbers, read_snapshots, run_numbers
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
#: On a run that has been through all of its files, be it that some of them failed.
LANDING_DONE_TAG = "k2/landing-done"
# A path and a sentence.
_MAX_REASON = 5_000


class FilesConfig(dg.Config):
    """What the launchpad offers."""

    files: list[str] = Field(description="Files to ingest, as EXCHANGE/SYMBOL/file in the landing folder.")
    settled: list[str] = Field(
        default=[],
        description="Those of the files that have not changed for ten minutes: where the last line has no "
        "end of line, that is a failure.",
    )
    refused: list[str] = Field(
        default=[], description="What cannot be ingested, each with the reason: the run fails and says it."
    )


def build_ingest_job(there: dg.PartitionsDefinition[Any]) -> dg.JobDefinition:
    """The job; `there` are the partitions of trades."""

    @dg.op(name=INGEST_OP, pool=TRADES_TABLE, retry_policy=RETRY_POLICY)
    def read_files(context: dg.OpExecutionContext, config: FilesConfig, lake: LakeResource) -> None:
        began = time.monotonic()
        with convert_errors(context):
            before = read_snapshots(lake.lake)
            done = _ingest(context, lake, config)
            reports = done.reports
            whole = run_numbers(lake.lake, reports, before, len(config.files))
            _materialize(context, lake, reports, whole, there)
        counts = {name: whole[f"run_{name}"] for name in COUNT_FIELDS}
        snapshot = reports[-1].snapshot if reports else None
        log_summary(context, "trades ingested", counts, snapshot, time.monotonic() - began)
        context.instance.add_run_tags(context.run.run_id, {LANDING_DONE_TAG: "true"})
        done.raise_failed(len(config.files) + len(config.refused))

    @dg.job(
        name=INGEST_FILES_JOB,
        tags={TABLE_TAG: TRADES_TABLE},
        description="Add the trades of landing files to the trades table, whatever days they are of.",
    )
    def ingest_files() -> None:
        read_files()

    return ingest_files


def _ingest(context: dg.OpExecutionContext, lake: LakeResource, config: FilesConfig) -> IngestResult:
    landing, odd = lake.settings.landing, IngestResult()
    for said in config.refused:
        add_failure(context, odd, make_printable(said), make_printable(said, _MAX_REASON))
    files = []
    for name in dict.fromkeys(config.files):
        try:
            if file := find_file(landing, name):
                files.append(file)
        except BadFileError as error:
            add_failure(context, odd, make_printable(name), str(error))
    if not files:
        context.log.info("None of the files is there any more: nothing to ingest.")
        return odd
    lake.lake.reject_external_trades()  # a table that is never written to is no failure of a file
    reject_replacing_trades(lake.lake)
    done = ingest_each(context, lake, files)
    report_unterminated(context, done, {landing / name for name in config.settled})
    return IngestResult(done.reports, odd.failed + done.failed)


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
    rows = count_rows_per_partition(lake.lake.trades())
    for day, added in sorted(grown.items()):
        key = day.isoformat()
        if added and there.has_partition_key(key):
            numbers = {**whole, **partition_numbers(added, rows.get(key, 0))}
            context.log_event(dg.AssetMaterialization(TRADES_TABLE, partition=key, metadata=numbers))
