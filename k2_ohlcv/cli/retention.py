"""`k2-ohlcv retention`: what is past its time, and letting it go."""

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.intervals import day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, parse_day
from k2_ohlcv.domain.timeframe import find_timeframe as named
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.operations.retention_report import RetentionReport, TableReport


def run_retention(terminal: Console, *, apply: bool, as_of: str | None, timeframe: str) -> None:
    """Say what goes, or let it go, and show what came of it.

    Args:
        terminal: where to show it.
        apply: do it; else only say what would go.
        as_of: the day that ages are measured from; None is that of the newest trade, or today if earlier.
        timeframe: a timeframe, or `all`, which is the trades as well.

    Raises:
        UsageError: an option has a value that it does not take.
        CommitConflictError: other writers won every attempt.
    """
    moment = day_start(parse_day(as_of)) if as_of else None
    timeframes = TIMEFRAMES if timeframe == "all" else (named(timeframe),)
    with terminal.progress("retention", total=None) as steps:
        report = retention(
            Lake.open(terminal.settings),
            terminal.settings.retention,
            apply=apply,
            as_of=moment,
            timeframes=timeframes,
            progress=steps.start_step,
        )
    terminal.print_json(report.as_json())
    terminal.print_text(*_result_table(report))


def _result_table(report: RetentionReport) -> list[object]:
    shown = table(
        "table",
        "kept from",
        "partitions#",
        "rows#",
        "bytes#",
        "files removed#",
        "bytes freed#",
        "files/partition#",
    )
    for one in report.tables:
        most, mean = one.files_per_partition
        counts = (len(one.partitions), one.rows, one.bytes, one.files_removed, one.bytes_freed)
        kept = f"{one.cutoff:%Y-%m-%d}" if one.cutoff else "the beginning"
        shown.add_row(one.table, kept, *(f"{count:,}" for count in counts), f"{mean:.1f}, at most {most}")
    notes = [note for one in report.tables for note in _notes(one, applied=report.applied)]
    return [shown, *_aged_from(report), *notes, _summary_text(report)]


def _aged_from(report: RetentionReport) -> list[str]:
    if report.aged_from is None:
        return []
    cause = f"set by {report.newest.as_text}" if report.newest else "as asked for"
    return [f"Ages are measured from {report.aged_from:%Y-%m-%d %H:%M:%S} UTC, {cause}."]


def _notes(one: TableReport, *, applied: bool) -> list[str]:
    notes = []
    if one.held_back and not applied:
        notes.append(f"{one.table}: a scheduled run would drop nothing: {one.held_back.reason}.")
    if one.partitions:
        notes.append(f"{one.table}: {one.partitions[0]} to {one.partitions[-1]} are past their time.")
    notes += [f"{one.table}: kept for now: {reason}." for reason in one.blocked]
    if one.files_refused:
        notes.append(
            f"{one.table}: the store refused to remove {one.files_refused:,} files, which stay as they are. "
            "Give this user the right to delete there; the next run tries again."
        )
    if one.compacted.before:
        notes.append(
            f"{one.table}: {one.compacted.before:,} small files of {one.compacted.partitions:,} partitions "
            f"became {one.compacted.after:,}."
        )
    return notes


def _summary_text(report: RetentionReport) -> str:
    partitions = sum(len(one.partitions) for one in report.tables)
    size = sum(one.bytes for one in report.tables)
    if not report.applied:
        what = f"{partitions:,} partitions of {size:,} bytes would go" if partitions else "Nothing would go"
        return f"{what}. This was a dry run: --apply does it."
    files = sum(one.files_removed for one in report.tables)
    refused = sum(one.files_refused for one in report.tables)
    if not partitions and not files and not refused:
        return "Nothing was past its time: the tables are as they were."
    later = sum(one.snapshots_expired for one in report.tables) == 0 and partitions
    why = " Kept snapshots still need their files (K2_SNAPSHOT_DAYS)." if later else ""
    return f"{partitions:,} partitions dropped, {files:,} files removed.{why}"
