"""`k2-ohlcv ingest`: adds the trades of files. Reading and adding is in `operations.ingest`."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import MissingTradesError
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.pending_changes import reject_replacing_trades
from k2_ohlcv.operations.ingest import IngestReport, ingest

# Files with an unterminated last line that the output names.
_MAX_FILES = 10


def ingest_files(
    console: Console,
    files: Sequence[Path],
    *,
    exchange: str | None,
    symbol: str | None,
    format: str,  # noqa: A002 # the name of the option
) -> None:
    """Ingest files and show the result.

    Raises:
        UsageError: an option has an invalid value.
        BadFileError: a file cannot be opened or read to its end.
    """
    settings = console.settings
    lake = Lake.open(settings)
    lake.reject_external_trades()
    try:
        reject_replacing_trades(lake)
    except MissingTradesError as missing:
        console.print_note(
            f"{missing}. This command creates a new table, and the next refresh follows that one."
        )
    with console.progress("ingesting", total=len(files)) as steps:
        report = ingest(
            lake,
            [file.absolute() for file in files],
            exchange=exchange,
            symbol=symbol,
            format=format,
            workspace=settings.home / "work",
            landing=settings.landing,
            progress=lambda step, rows: steps.start_step(f"{rows:,} rows {step}"),
        )
        console.print_json(report.as_json())
    console.print_text(*_summary_lines(report))


def _summary_lines(report: IngestReport) -> list[object]:
    result = table("read#", "added#", "known#", "conflicts#", "rejected#", "first", "last")
    counts = (report.read, report.added, report.duplicates, report.conflicts, report.rejected)
    result.add_row(*(f"{count:,}" for count in counts), str(report.first or "-"), str(report.last or "-"))
    notes = []
    if report.conflicts:
        notes.append(
            f"{report.conflicts:,} trades are stored already with other values. They were not added, and are "
            "in rejected_trades."
        )
    if report.rejected:
        notes.append(f"{report.rejected:,} rows cannot be trades. The reasons are in rejected_trades.")
    notes += [
        f"{source}: line {line:,}, the last one, has no end of line and may be incomplete. It was left out. "
        "Add the end of line if the line is complete."
        for source, line in islice(report.unterminated.items(), _MAX_FILES)
    ]
    if len(report.unterminated) > _MAX_FILES:
        notes.append(
            f"The same in {len(report.unterminated) - _MAX_FILES:,} more files: see rejected_trades."
        )
    rows, times = report.shared
    if rows:
        notes.append(
            f"{rows:,} rows without ids share {times:,} timestamps with stored trades. Check that no two "
            "files split one second of a market."
        )
    if not report.added:
        notes.append("Nothing new: the tables are unchanged.")
    return [result, *notes]
