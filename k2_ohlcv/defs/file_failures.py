"""Ingestion of several files in Dagster. A bad file is reported by name; all other files are ingested.

Only an error from reading a file is a failure of that file. A catalog that is down, a full disk and a commit
conflict are not: Dagster gets those errors and retries the run.

`ingest` is imported when a step runs: without it the graph loads in half the time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from k2_ohlcv import logs
from k2_ohlcv.defs.resources import LakeResource
from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.printable import make_printable_path
from k2_ohlcv.lake.schemas import TRADES_TABLE

if TYPE_CHECKING:
    from k2_ohlcv.operations.ingest import IngestReport

Context = dg.OpExecutionContext | dg.AssetExecutionContext


@dataclass
class IngestResult:
    """The outcome of ingesting some files.

    Attributes:
        reports: what was ingested.
        failed: the error of each file that failed.
    """

    reports: list["IngestReport"] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def raise_failed(self, total: int) -> None:
        """Fail the run if a file failed. The other files are ingested by then.

        Raises:
            Failure: names each failed file, with its error.
        """
        if self.failed:
            raise dg.Failure(
                f"{len(self.failed)} of {total} files failed. They are tried again when they change: "
                + "; ".join(self.failed),
                allow_retries=False,
            )


def ingest_each(
    context: Context, lake: LakeResource, files: Sequence[Path], days: Sequence[Interval] | None = None
) -> IngestResult:
    """Ingest all files together. If one of them is bad, ingest them one by one, so that the others succeed.

    Args:
        context: where failures are logged.
        lake: the tables, and the landing folder.
        files: the files.
        days: the days whose rows are ingested; None is all days.
    """
    from k2_ohlcv.operations.ingest import ingest

    result = IngestResult()
    if not files:
        return result
    settings = lake.settings
    try:
        report = ingest(
            lake.lake,
            files,
            days=days,
            landing=settings.landing,
            workspace=settings.home / "work",
            progress=lambda step, rows: logs.report_progress(f"{rows:,} rows {step}"),
        )
        result.reports.append(report)
    except (BadFileError, UsageError) as error:
        if len(files) == 1:
            add_failure(context, result, make_printable_path(files[0]), str(error))
            return result
        for file in files:
            single = ingest_each(context, lake, [file], days)
            result.reports += single.reports
            result.failed += single.failed
    return result


def add_failure(context: Context, result: IngestResult, file: str, error: str) -> None:
    """Log that a file failed, and add the error to the result for the end of the run."""
    fields = {"event": "file failed", "file": file, "error": error, "table": TRADES_TABLE}
    context.log.error(f"file failed: {error}", extra={logs.FIELDS: fields})
    result.failed.append(error)


def report_unterminated(context: Context, result: IngestResult, settled: Collection[Path] = ()) -> None:
    """Report files whose last line has no end of line: settled files as failed, others by a warning."""
    for report in result.reports:
        for source, line in report.unterminated.items():
            text = f"{make_printable_path(Path(source))}: line {line}, the last one, has no end of line"
            if Path(source) in settled:
                error = (
                    f"{text}, and the file has not changed for ten minutes. The line is in rejected_trades. "
                    "Add the end of line if the line is complete, else fetch the file again"
                )
                add_failure(context, result, make_printable_path(Path(source)), error)
            else:
                fields = {"event": "file unterminated", "file": source, "line": line, "table": TRADES_TABLE}
                context.log.warning(f"{text}. It is left out until it has one.", extra={logs.FIELDS: fields})
