"""`k2-ohlcv ingest`: files to trades."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import MissingTradesError
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.pending_changes import reject_replacing_trades
from k2_ohlcv.operations.ingest import IngestReport, ingest

# Files that are named one by one.
_MAX_FILES = 10


def ingest_files(
    terminal: Console,
    files: Sequence[Path],
    *,
    exchange: str | None,
    symbol: str | None,
    format: str,  # noqa: A002 # the name of the option
) -> None:
    """Ingest files and show what came of it.

    Raises:
        UsageError: a file is not there, or an option has a value that it does not take.
        BadFileError: a file can't be read as a whole.
    """
    settings = terminal.settings
    lake = Lake.open(settings)
    lake.reject_external_trades()
    try:
        reject_replacing_trades(lake)
    except MissingTradesError as missing:
        terminal.print_note(
            f"{missing}. This command creates a new table, and the next refresh follows that one."
        )
    with terminal.progress("ingesting", total=len(files)) as steps:
        report = ingest(
            lake,
            [file.absolute() for file in files],
            exchange=exchange,
            symbol=symbol,
            format=format,
            workspace=settings.home / "work",
            landing=settings.landing,
            progress=lambda what, rows: steps.start_step(f"{rows:,} rows {what}"),
        )
        terminal.print_json(report.as_json())
    terminal.print_text(*_summary_lines(report))


def _summary_lines(report: IngestReport) -> list[object]:
    shown = table("read#", "added#", "known#", "conflicts#", "rejected#", "first", "last")
    counts = (report.read, report.added, report.duplicates, report.conflicts, report.rejected)
    shown.add_row(*(f"{count:,}" for count in counts), str(report.first or "-"), str(report.last or "-"))
    notes = []
    if report.conflicts:
        notes.append(f"{report.conflicts:,} trades came again with other values and were kept out.")
    if report.rejected:
        notes.append(
            f"{report.rejected:,} rows cannot be trades: see the table rejected_trades for the reasons."
        )
    notes += [
        f"{source}: line {line:,}, the last one, has no end of line and may be cut: it was left out. "
        "Add the end of line if it is whole."
        for source, line in islice(report.unterminated.items(), _MAX_FILES)
    ]
    if len(report.unterminated) > _MAX_FILES:
        notes.append(f"And {len(report.unterminated) - _MAX_FILES:,} files more: see rejected_trades.")
    rows, times = report.shared
    if rows:
        notes.append(
            f"{rows:,} rows without ids share {times:,} timestamps with stored trades: see that these files "
            "do not cut one second of a market in two."
        )
    if not report.added:
        notes.append("Nothing new: the tables are as they were.")
    return [shown, *notes]
