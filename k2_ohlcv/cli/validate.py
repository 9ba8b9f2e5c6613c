"""`k2-ohlcv validate`: every check of the stored candles of some days."""

import time
from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import CheckFailedError, UsageError
from k2_ohlcv.domain.intervals import DAY, Interval, day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe, parse_day
from k2_ohlcv.frames.candles import format_rows
from k2_ohlcv.frames.checks import CHECKS, Finding
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.table_stats import candles_status

#: So many days back from the newest candle, where nothing is said.
LOOKBACK_DAYS = 7
#: Checks that pass over what cannot be compared, and say so: "ok" alone would claim too much.
_CHECKS_WITH_NOTES = {"reconciles_with_trades", "timeframes_agree", "gaps"}


def validate_tables(
    terminal: Console, name: str, *, lookback_days: int | None, start: str | None, end: str | None
) -> None:
    """Validate and show what came of it.

    Args:
        terminal: where to show it.
        name: a timeframe, or `all`.
        lookback_days: how many days back from the newest candle; not together with `start` and `end`.
        start: the first day.
        end: the day after the last.

    Raises:
        UsageError: days that cannot be.
        CheckFailedError: a blocking check fails; shown all the same.
    """
    began = time.monotonic()
    timeframes = TIMEFRAMES if name == "all" else (find_timeframe(name),)
    lake = Lake.open(terminal.settings)
    span = _span(lake, lookback_days, start, end)
    found = _findings(terminal, lake, timeframes, span) if span else []
    seconds = round(time.monotonic() - began, 3)
    terminal.print_json({"checks": [one.as_json() for one in found], "seconds": seconds})
    if span is None:
        terminal.print_note("There are no candles yet.")
        return
    terminal.print_text(
        f"{span.start:%Y-%m-%d} to {span.end:%Y-%m-%d}, {seconds:.1f} s", _result_table(found, timeframes)
    )
    for one in found:
        if one.note and (one.check in _CHECKS_WITH_NOTES or not one.is_ok):
            terminal.print_text(f"{one.check} of {one.timeframe}: {one.note}")
    blocking = {check.name for check in CHECKS if check.is_blocking}
    for one in found:
        if not one.is_ok and one.rows is not None:
            inside = f", in {', '.join(one.partitions)}" if one.partitions else ""
            terminal.print_text(
                f"\n{one.check} of {one.timeframe}: {one.failures:,} fail{inside}", format_rows(one.rows)
            )
    failed = [f"{one.check} of {one.timeframe}" for one in found if not one.is_ok and one.check in blocking]
    if failed:
        refused = any("refused before the commit" in one.note for one in found)
        todo = "k2-ohlcv rebuild repairs candles."
        if refused:
            todo += " Refused windows need their trades corrected (k2-ohlcv trades)."
        raise CheckFailedError(f"failed: {', '.join(failed)}. {todo}")


def _findings(
    terminal: Console, lake: Lake, timeframes: Sequence[Timeframe], span: Interval
) -> list[Finding]:
    with terminal.progress("validating", total=len(timeframes)) as steps:
        steps.start_step("starting the engine")
        from k2_ohlcv.engine.session import open_engine
        from k2_ohlcv.engine.totals import TotalsCache
        from k2_ohlcv.operations.validate import validate

        cache, found = TotalsCache(timeframes), list[Finding]()
        with open_engine(terminal.settings) as engine:
            for one in timeframes:
                findings = validate(lake, engine, one, [span], cache=cache, progress=steps.start_step)
                found += findings
                failing = [f.check for f in findings if not f.is_ok]
                steps.finish_step(f"{one.table}: {', '.join(failing) + ' fail' if failing else 'sound'}")
    return found


def _span(lake: Lake, lookback_days: int | None, start: str | None, end: str | None) -> Interval | None:
    if lookback_days is not None and (start or end):
        raise UsageError("--lookback-days goes without --from and --to: they say the days themselves")
    if lookback_days is not None and lookback_days < 1:
        raise UsageError(f"--lookback-days {lookback_days}: it is one day or more")
    statuses = [candles_status(lake, one) for one in TIMEFRAMES]
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
        raise UsageError(f"--to {end} is not after --from {start}: it names the day after the last one")
    return Interval(first, last) if first and last and first < last else None


def _result_table(found: Sequence[Finding], timeframes: Sequence[Timeframe]) -> object:
    by_place = {(one.check, one.timeframe): one for one in found}
    made = table("check", *(f"{one.name}#" for one in timeframes))
    for check in CHECKS:
        cells = [by_place[check.name, one.name] for one in timeframes]
        made.add_row(check.name, *(_cell_text(one) for one in cells))
    return made


def _cell_text(one: Finding) -> str | Text:
    if one.is_ok:
        return f"{one.examined:,} ok"
    return Text(f"{one.failures:,} of {one.examined:,}", style="red")
