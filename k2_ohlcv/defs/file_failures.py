"""Ingestion of many files from Dagster: a bad file is reported by name, and holds up no other.

Only what reading a file raises is that file's failure. A catalog that is down, a full disk or a lost race is
none: it goes on to Dagster, which tries the run again.

`ingest` is imported when a step runs: the graph loads without it in half the time.
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
    """What became of files.

    Attributes:
        reports: what was read.
        failed: what was wrong with each file that failed.
    """

    reports: list["IngestReport"] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def raise_failed(self, total: int) -> None:
        """End the run where a file failed; the others are in.

        Raises:
            Failure: names each file, with its error.
        """
        if self.failed:
            raise dg.Failure(
                f"{len(self.failed)} of {total} files failed, and wait to be changed: "
                + "; ".join(self.failed),
                allow_retries=False,
            )


def ingest_each(
    context: Context, lake: LakeResource, files: Sequence[Path], days: Sequence[Interval] | None = None
) -> IngestResult:
    """Ingest all files at once. Where one of them is bad, ingest them one by one: it holds up no other.

    Args:
        context: where failures are logged.
        lake: the tables, and the landing folder.
        files: the files.
        days: whose rows are ingested; None is all.
    """
    from k2_ohlcv.operations.ingest import ingest

    done = IngestResult()
    if not files:
        return done
    settings = lake.settings
    try:
        report = ingest(
            lake.lake,
            files,
            days=days,
            landing=settings.landing,
            workspace=settings.home / "work",
            progress=lambda what, rows: logs.report_progress(f"{rows:,} rows {what}"),
        )
        done.reports.append(report)
    except (BadFileError, UsageError) as error:
        if len(files) == 1:
            add_failure(context, done, make_printable_path(files[0]), str(error))
            return done
        for file in files:
            alone = ingest_each(context, lake, [file], days)
            done.reports += alone.reports
            done.failed += alone.failed
    return done


def add_failure(context: Context, done: IngestResult, file: str, error: str) -> None:
    """Log that a file failed, and keep it for the end of the run."""
    fields = {"event": "file failed", "file": file, "error": error, "table": TRADES_TABLE}
    context.log.error(f"file failed: {error}", extra={logs.FIELDS: fields})
    done.failed.append(error)


def report_unterminated(context: Context, done: IngestResult, settled: Collection[Path] = ()) -> None:
    """Say which files end without an end of line: a failure of those that have settled, else a warning."""
    for report in done.reports:
        for source, line in report.unterminated.items():
            said = f"{make_printable_path(Path(source))}: line {line}, the last one, has no end of line"
            if Path(source) in settled:
                error = (
                    f"{said}, and the file has not changed for ten minutes: the line is left out and is in "
                    "rejected_trades; add the end of line if it is whole, else fetch the file again"
                )
                add_failure(context, done, make_printable_path(Path(source)), error)
            else:
                fields = {"event": "file unterminated", "file": source, "line": line, "table": TRADES_TABLE}
                context.log.warning(f"{said}: left out until it has one", extra={logs.FIELDS: fields})
