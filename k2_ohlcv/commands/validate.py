"""`k2-ohlcv validate`: every check of the stored candles of some days."""

import time
from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from k2_ohlcv.commands.terminal import Terminal, table
from k2_ohlcv.domain.checks import CHECKS, Finding
from k2_ohlcv.domain.errors import CheckFailedError, UsageError
from k2_ohlcv.domain.frame import render
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, parse_day, timeframe
from k2_ohlcv.domain.window import DAY, Interval, midnight
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.inventory import candles_status

#: So many days back from the newest candle, where nothing is said.
LOOKBACK_DAYS = 7
#: Checks that pass over what cannot be compared, and say so: "ok" alone would claim too much.
_NOTED = {"reconciles_with_trades", "timeframes_agree", "gaps"}


def validate_tables(
    terminal: Terminal, name: str, *, lookback_days: int | None, start: str | None, end: str | None
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
    timeframes = TIMEFRAMES if name == "all" else (timeframe(name),)
    lake = Lake.open(terminal.settings)
    span = _span(lake, lookback_days, start, end)
    found = _findings(terminal, lake, timeframes, span) if span else []
    seconds = round(time.monotonic() - began, 3)
    terminal.result({"checks": [one.as_json() for one in found], "seconds": seconds})
    if span is None:
        terminal.note("There are no candles yet.")
        return
    terminal.show(f"{span.start:%Y-%m-%d} to {span.end:%Y-%m-%d}, {seconds:.1f} s", _shown(found, timeframes))
    for one in found:
        if one.note and (one.check in _NOTED or not one.ok):
            terminal.show(f"{one.check} of {one.timeframe}: {one.note}")
    blocking = {check.name for check in CHECKS if check.blocking}
    for one in found:
        if not one.ok and one.rows is not None:
            inside = f", in {', '.join(one.partitions)}" if one.partitions else ""
            terminal.show(
                f"\n{one.check} of {one.timeframe}: {one.failures:,} fail{inside}", render(one.rows)
            )
    failed = [f"{one.check} of {one.timeframe}" for one in found if not one.ok and one.check in blocking]
    if failed:
        refused = any("refused before the commit" in one.note for one in found)
        todo = "k2-ohlcv rebuild repairs candles."
        if refused:
            todo += " Refused windows need their trades corrected (k2-ohlcv trades)."
        raise CheckFailedError(f"failed: {', '.join(failed)}. {todo}")


def _findings(
    terminal: Terminal, lake: Lake, timeframes: Sequence[Timeframe], span: Interval
) -> list[Finding]:
    with terminal.progress("validating", total=len(timeframes)) as steps:
        steps.doing("starting the engine")
        from k2_ohlcv.engine.session import open_engine
        from k2_ohlcv.engine.totals import TotalsCache
        from k2_ohlcv.validate import validate

        cache, found = TotalsCache(timeframes), list[Finding]()
        with open_engine(terminal.settings) as engine:
            for one in timeframes:
                findings = validate(lake, engine, one, [span], cache=cache, progress=steps.doing)
                found += findings
                failing = [f.check for f in findings if not f.ok]
                steps.done(f"{one.table}: {', '.join(failing) + ' fail' if failing else 'sound'}")
    return found


def _span(lake: Lake, lookback_days: int | None, start: str | None, end: str | None) -> Interval | None:
    if lookback_days is not None and (start or end):
        raise UsageError("--lookback-days goes without --from and --to: they say the days themselves")
    if lookback_days is not None and lookback_days < 1:
        raise UsageError(f"--lookback-days {lookback_days}: it is one day or more")
    statuses = [candles_status(lake, one) for one in TIMEFRAMES]
    lasts = [status.last for status in statuses if status.last]
    firsts = [status.first for status in statuses if status.first]
    last = midnight(parse_day(end)) if end else max((midnight(at.date()) + DAY for at in lasts), default=None)
    first: datetime | None
    if start:
        first = midnight(parse_day(start))
    elif last and end:
        first = min((midnight(at.date()) for at in firsts), default=last)
    else:
        first = last - (lookback_days or LOOKBACK_DAYS) * DAY if last else None
    if start and end and first and last and first >= last:
        raise UsageError(f"--to {end} is not after --from {start}: it names the day after the last one")
    return Interval(first, last) if first and last and first < last else None


def _shown(found: Sequence[Finding], timeframes: Sequence[Timeframe]) -> object:
    by_place = {(one.check, one.timeframe): one for one in found}
    made = table("check", *(f"{one.name}#" for one in timeframes))
    for check in CHECKS:
        cells = [by_place[check.name, one.name] for one in timeframes]
        made.add_row(check.name, *(_cell(one) for one in cells))
    return made


def _cell(one: Finding) -> str | Text:
    if one.ok:
        return f"{one.examined:,} ok"
    return Text(f"{one.failures:,} of {one.examined:,}", style="red")
