"""Ingestion of many files from Dagster: a bad file is reported by name, and holds up no other.

Only what reading a file raises is that file's failure. A catalog that is down, a full disk or a lost race is
none: it goes on to Dagster, which tries the run again.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from k2_ohlcv import logs
from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.domain.printable import printable_path
from k2_ohlcv.lake.schemas import TRADES_TABLE

if TYPE_CHECKING:
    from k2_ohlcv.ingest import IngestReport

Context = dg.OpExecutionContext | dg.AssetExecutionContext


@dataclass
class Ingested:
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
    context: Context, files: Sequence[Path], ingest: Callable[[Sequence[Path]], "IngestReport"]
) -> Ingested:
    """All files at once; where one of them is bad, one by one, so that it holds up no other.

    Args:
        context: where failures are logged.
        files: the files.
        ingest: ingests files, all of them or none.
    """
    done = Ingested()
    if not files:
        return done
    try:
        done.reports.append(ingest(files))
    except (BadFileError, UsageError) as error:
        if len(files) == 1:
            add_failure(context, done, printable_path(files[0]), str(error))
            return done
        for file in files:
            alone = ingest_each(context, [file], ingest)
            done.reports += alone.reports
            done.failed += alone.failed
    return done


def add_failure(context: Context, done: Ingested, file: str, error: str) -> None:
    """Log that a file failed, and keep it for the end of the run."""
    fields = {"event": "file failed", "file": file, "error": error, "table": TRADES_TABLE}
    context.log.error(f"file failed: {error}", extra={logs.FIELDS: fields})
    done.failed.append(error)


def report_unterminated(context: Context, done: Ingested, settled: Collection[Path] = ()) -> None:
    """Say which files end without an end of line: a failure of those that have settled, else a warning."""
    for report in done.reports:
        for source, line in report.unterminated.items():
            said = f"{printable_path(Path(source))}: line {line}, the last one, has no end of line"
            if Path(source) in settled:
                error = (
                    f"{said}, and the file has not changed for ten minutes: the line is left out and is in "
                    "rejected_trades; add the end of line if it is whole, else fetch the file again"
                )
                add_failure(context, done, printable_path(Path(source)), error)
            else:
                fields = {"event": "file unterminated", "file": source, "line": line, "table": TRADES_TABLE}
                context.log.warning(f"{said}: left out until it has one", extra={logs.FIELDS: fields})
