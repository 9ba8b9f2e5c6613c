"""`k2-ohlcv retention`: shows what is past retention, and drops it with `--apply`."""

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.intervals import day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe, parse_day
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.operations.retention_report import RetentionReport, TableReport


def run_retention(console: Console, *, apply: bool, as_of: str | None, timeframe: str) -> None:
    """Drop what is past retention, or only plan it, and show the result.

    Args:
        console: the output.
        apply: drop it; else only report what would be dropped.
        as_of: the day from which ages are measured; None is the newest trade's, or today if that is earlier.
        timeframe: a timeframe, or `all`, which includes trades.

    Raises:
        UsageError: an option has an invalid value.
        CommitConflictError: other writers committed first at every attempt.
    """
    day = day_start(parse_day(as_of)) if as_of else None
    timeframes = TIMEFRAMES if timeframe == "all" else (find_timeframe(timeframe),)
    with console.progress("retention", total=None) as steps:
        report = retention(
            Lake.open(console.settings),
            console.settings.retention,
            apply=apply,
            as_of=day,
            timeframes=timeframes,
            progress=steps.start_step,
        )
    console.print_json(report.as_json())
    console.print_text(*_result_table(report))


def _result_table(report: RetentionReport) -> list[object]:
    result = table(
        "table",
        "kept from",
        "partitions#",
        "rows#",
        "bytes#",
        "files removed#",
        "bytes freed#",
        "files/partition#",
    )
    for planned in report.tables:
        most, mean = planned.files_per_partition
        counts = (
            len(planned.partitions),
            planned.rows,
            planned.bytes,
            planned.files_removed,
            planned.bytes_freed,
        )
        kept = f"{planned.cutoff:%Y-%m-%d}" if planned.cutoff else "the beginning"
        result.add_row(
            planned.table, kept, *(f"{count:,}" for count in counts), f"{mean:.1f}, at most {most}"
        )
    notes = [note for planned in report.tables for note in _notes(planned, applied=report.applied)]
    return [result, *_aged_from(report), *notes, _summary_text(report)]


def _aged_from(report: RetentionReport) -> list[str]:
    if report.aged_from is None:
        return []
    cause = f"set by {report.newest.as_text}" if report.newest else "as given"
    return [f"Ages are measured from {report.aged_from:%Y-%m-%d %H:%M:%S} UTC, {cause}."]


def _notes(report: TableReport, *, applied: bool) -> list[str]:
    name, notes = report.table, []
    if report.held_back and not applied:
        notes.append(f"{name}: a scheduled run would drop nothing: {report.held_back.reason}.")
    if report.partitions:
        notes.append(f"{name}: {report.partitions[0]} to {report.partitions[-1]} are past retention.")
    notes += [f"{name}: kept for now: {reason}." for reason in report.blocked]
    if report.files_refused:
        notes.append(
            f"{name}: the store refused to remove {report.files_refused:,} files. "
            "Give this user the right to delete them. The next run tries again."
        )
    if report.compacted.before:
        notes.append(
            f"{name}: {report.compacted.before:,} small files of {report.compacted.partitions:,} partitions "
            f"were merged into {report.compacted.after:,}."
        )
    return notes


def _summary_text(report: RetentionReport) -> str:
    partitions = sum(len(table.partitions) for table in report.tables)
    size = sum(table.bytes for table in report.tables)
    if not report.applied:
        plan = f"{partitions:,} partitions of {size:,} bytes would be" if partitions else "Nothing would be"
        return f"{plan} dropped. This was a dry run: --apply drops them."
    files = sum(table.files_removed for table in report.tables)
    refused = sum(table.files_refused for table in report.tables)
    if not partitions and not files and not refused:
        return "Nothing was past retention: the tables are unchanged."
    is_later = sum(table.snapshots_expired for table in report.tables) == 0 and partitions
    reason = " Kept snapshots still need their files (K2_SNAPSHOT_DAYS)." if is_later else ""
    return f"{partitions:,} partitions dropped, {files:,} files removed.{reason}"
