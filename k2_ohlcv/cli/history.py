"""`k2-ohlcv history`: where the history of each table begins, and moving a line of retention back."""

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, parse_day
from k2_ohlcv.domain.timeframe import find_timeframe as named
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.history import BoundMove, move_expired_before, move_frozen_before, read_bounds


def run_history(
    terminal: Console, *, frozen_before: str | None, expired_before: str | None, timeframe: str, apply: bool
) -> None:
    """Show the lines, or move one back.

    Args:
        terminal: where to show it.
        frozen_before: the day to move the frozen line of all tables back to; None leaves it.
        expired_before: the day to move the expired line back to; None leaves it.
        timeframe: a timeframe, or `all`: the tables whose expired line moves.
        apply: do it; else only say what would move.

    Raises:
        UsageError: nothing to move, or an option has a value that it does not take.
        CommitConflictError: other writers won every attempt.
    """
    lake = Lake.open(terminal.settings)
    if apply and not (frozen_before or expired_before):
        raise UsageError("--apply needs --frozen-before or --expired-before: the line to move back")
    moves: list[BoundMove] = []
    if frozen_before:
        moves += move_frozen_before(lake, day_start(parse_day(frozen_before)), apply=apply)
    if expired_before:
        chosen = TIMEFRAMES if timeframe == "all" else (named(timeframe),)
        moves += move_expired_before(lake, day_start(parse_day(expired_before)), chosen, apply=apply)
    shown = moves or read_bounds(lake)
    terminal.print_json({"applied": apply, "lines": [one.as_json() for one in shown]})
    terminal.print_text(_result_table(shown))
    if moves:
        terminal.print_text(_summary_text(applied=apply))


def _result_table(lines: list[BoundMove]) -> object:
    made = table("table", "line", "at", "moves back to", "candles between#", "trades between#")
    for one in lines:
        days = (f"{moment:%Y-%m-%d}" if moment else "-" for moment in (one.before, one.after))
        made.add_row(one.table, one.bound, *days, f"{one.candles:,}", f"{one.trades:,}")
    return made


def _summary_text(*, applied: bool) -> str:
    what = "The next refresh makes the windows between equal to the trades: candles without trades go."
    return f"Moved. {what}" if applied else f"{what} This was a dry run: --apply moves the lines."
