"""`k2-ohlcv validate`: runs every check on the stored candles of some days."""

import time
from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import CheckFailedError, UsageError
from k2_ohlcv.domain.intervals import DAY, Interval, day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe, parse_day
from k2_ohlcv.frames.candles import format_rows
from k2_ohlcv.frames.check_list import CHECKS
from k2_ohlcv.frames.checks import Finding
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.table_stats import candles_status

#: The default span: so many days up to the newest candle.
LOOKBACK_DAYS = 7
#: Checks that skip windows which cannot be compared. Their notes are shown even if they pass.
_CHECKS_WITH_NOTES = {"reconciles_with_trades", "timeframes_agree", "gaps"}


def validate_tables(
    console: Console, name: str, *, lookback_days: int | None, start: str | None, end: str | None
) -> None:
    """Validate candle tables and show the result.

    Args:
        console: the output.
        name: a timeframe, or `all`.
        lookback_days: how many days to check, up to the newest candle; not together with `start` and `end`.
        start: the first day.
        end: the day after the last.

    Raises:
        UsageError: the days contradict each other.
        CheckFailedError: a blocking check failed. The result is shown before.
    """
    began = time.monotonic()
    timeframes = TIMEFRAMES if name == "all" else (find_timeframe(name),)
    lake = Lake.open(console.settings)
    span = _span(lake, lookback_days, start, end)
    findings = _findings(console, lake, timeframes, span) if span else []
    seconds = round(time.monotonic() - began, 3)
    console.print_json({"checks": [finding.as_json() for finding in findings], "seconds": seconds})
    if span is None:
        console.print_note("There are no candles yet.")
        return
    title = f"{span.start:%Y-%m-%d} to {span.end:%Y-%m-%d}, {seconds:.1f} s"
    console.print_text(title, _result_table(findings, timeframes))
    _print_details(console, findings)
    _raise_failed(findings)


def _print_details(console: Console, findings: Sequence[Finding]) -> None:
    """Print notes and sample rows of the checks."""
    for finding in findings:
        if finding.note and (finding.check in _CHECKS_WITH_NOTES or not finding.is_ok):
            console.print_text(f"{finding.check} of {finding.timeframe}: {finding.note}")
    for finding in findings:
        if not finding.is_ok and finding.rows is not None:
            partitions = f", in {', '.join(finding.partitions)}" if finding.partitions else ""
            title = f"\n{finding.check} of {finding.timeframe}: {finding.failures:,} fail{partitions}"
            console.print_text(title, format_rows(finding.rows))


def _raise_failed(findings: Sequence[Finding]) -> None:
    """Raise an error that names the failed blocking checks, if there are any."""
    blocking = {check.name for check in CHECKS if check.is_blocking}
    failed = [f"{f.check} of {f.timeframe}" for f in findings if not f.is_ok and f.check in blocking]
    if failed:
        advice = "k2-ohlcv rebuild repairs candles."
        if any("refused before the commit" in finding.note for finding in findings):
            advice += " Refused windows need their trades corrected (k2-ohlcv trades)."
        raise CheckFailedError(f"failed: {', '.join(failed)}. {advice}")


def _findings(console: Console, lake: Lake, timeframes: Sequence[Timeframe], span: Interval) -> list[Finding]:
    with console.progress("validating", total=len(timeframes)) as steps:
        steps.start_step("starting the engine")
        from k2_ohlcv.engine.session import open_engine
        from k2_ohlcv.engine.totals import TotalsCache
        from k2_ohlcv.operations.validate import validate

        cache, findings = TotalsCache(timeframes), list[Finding]()
        with open_engine(console.settings) as engine:
            for timeframe in timeframes:
                of_table = validate(lake, engine, timeframe, [span], cache=cache, progress=steps.start_step)
                findings += of_table
                failed = [finding.check for finding in of_table if not finding.is_ok]
                steps.finish_step(f"{timeframe.table}: {', '.join(failed) + ' failed' if failed else 'ok'}")
    return findings


def _span(lake: Lake, lookback_days: int | None, start: str | None, end: str | None) -> Interval | None:
    if lookback_days is not None and (start or end):
        raise UsageError("--lookback-days cannot be combined with --from and --to, which set the days")
    if lookback_days is not None and lookback_days < 1:
        raise UsageError(f"--lookback-days {lookback_days}: give one day or more")
    statuses = [candles_status(lake, timeframe) for timeframe in TIMEFRAMES]
    lasts = [status.last for status in statuses if status.last]
    firsts = [status.first for status in statuses if status.first]
    last = (
        day_start(parse_day(end)) if end else max((day_start(at.date()) + DAY for at in lasts), default=None)
    )
    first: datetime | None
    if start:
        first = day_start(parse_day(start))
    elif last and end:
        first = min((day_start(at.date()) for at in firsts), default=last)
    else:
        first = last - (lookback_days or LOOKBACK_DAYS) * DAY if last else None
    if start and end and first and last and first >= last:
        raise UsageError(f"--to {end} is not after --from {start}: --to is the day after the last one")
    return Interval(first, last) if first and last and first < last else None


def _result_table(findings: Sequence[Finding], timeframes: Sequence[Timeframe]) -> object:
    by_cell = {(finding.check, finding.timeframe): finding for finding in findings}
    result = table("check", *(f"{timeframe.name}#" for timeframe in timeframes))
    for check in CHECKS:
        cells = [by_cell[check.name, timeframe.name] for timeframe in timeframes]
        result.add_row(check.name, *(_cell_text(finding) for finding in cells))
    return result


def _cell_text(finding: Finding) -> str | Text:
    if finding.is_ok:
        return f"{finding.examined:,} ok"
    return Text(f"{finding.failures:,} of {finding.examined:,}", style="red")
