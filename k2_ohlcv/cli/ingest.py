"""`k2-ohlcv ingest`: adds the trades of files. Reading and adding is in `operations.ingest`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import BadFileError, MissingTradesError
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.pending_changes import reject_replacing_trades
from k2_ohlcv.operations.ingest import IngestReport, ingest
from k2_ohlcv.operations.ingest_folders import choose_files

# Files that the output names, of those left out or with an unterminated last line.
_MAX_FILES = 10


def ingest_files(
    console: Console,
    paths: Sequence[Path],
    *,
    exchange: str | None,
    symbol: str | None,
    format: str,  # noqa: A002 # the name of the option
) -> None:
    """Ingest files, and the files of folders, and show the result.

    Raises:
        UsageError: an option has an invalid value, or a folder has no files.
        BadFileError: a named file cannot be opened or read to its end, and nothing was added. Or files of a
            folder were left out, and the others were added.
    """
    settings = console.settings
    lake = Lake.open(settings)
    lake.reject_external_trades()
    chosen = choose_files(paths)
    if not chosen.files:
        raise BadFileError(_skipped_text(chosen.skipped, "there are no others"))
    _note_replaced_table(console, lake)
    with console.progress("ingesting", total=len(chosen.files)) as steps:
        report = ingest(
            lake,
            chosen.files,
            folders=chosen.folders,
            exchange=exchange,
            symbol=symbol,
            format=format,
            workspace=settings.home / "work",
            landing=settings.landing,
            progress=lambda step, rows: steps.start_step(f"{rows:,} rows {step}"),
        )
        report = replace(report, skipped={**chosen.skipped, **report.skipped})
        console.print_json(report.as_json())
    console.print_text(*_summary_lines(report))
    if chosen.checksums:
        console.print_note(f"{chosen.checksums:,} checksum files were left out.")
    if report.skipped:
        raise BadFileError(_skipped_text(report.skipped, "all others were ingested"))


def _note_replaced_table(console: Console, lake: Lake) -> None:
    """Say where candles exist and the trades table does not: a new one takes its place."""
    try:
        reject_replacing_trades(lake)
    except MissingTradesError as missing:
        console.print_note(
            f"{missing}. This command creates a new table, and the next refresh follows that one."
        )


def _skipped_text(skipped: Mapping[Path, str], others: str) -> str:
    """The files that were left out, with the reasons, and what became of the others."""
    reasons = [f"  {reason}" for reason in islice(skipped.values(), _MAX_FILES)]
    if (more := len(skipped) - _MAX_FILES) > 0:
        reasons.append(f"  and {more:,} more: --json lists all")
    return "\n".join([f"{len(skipped):,} files were left out; {others}:", *reasons])


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
