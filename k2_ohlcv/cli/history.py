"""`k2-ohlcv history`: shows `frozen_before` and `expired_before` of each table, and sets one back."""

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe, parse_day
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.history import BoundMove, move_expired_before, move_frozen_before, read_bounds


def run_history(
    console: Console, *, frozen_before: str | None, expired_before: str | None, timeframe: str, apply: bool
) -> None:
    """Show the two dates of each table, or set one back.

    Args:
        console: the output.
        frozen_before: the day to which `frozen_before` of all tables is set back; None leaves it.
        expired_before: the day to which `expired_before` is set back; None leaves it.
        timeframe: a timeframe, or `all`: the tables whose `expired_before` is set.
        apply: set it back; else only report what would change.

    Raises:
        UsageError: `apply` without a date, or an option with an invalid value.
        CommitConflictError: other writers committed first at every attempt.
    """
    lake = Lake.open(console.settings)
    if apply and not (frozen_before or expired_before):
        raise UsageError("--apply needs --frozen-before or --expired-before: the date to set back")
    changes: list[BoundMove] = []
    if frozen_before:
        changes += move_frozen_before(lake, day_start(parse_day(frozen_before)), apply=apply)
    if expired_before:
        timeframes = TIMEFRAMES if timeframe == "all" else (find_timeframe(timeframe),)
        changes += move_expired_before(lake, day_start(parse_day(expired_before)), timeframes, apply=apply)
    bounds = changes or read_bounds(lake)
    console.print_json({"applied": apply, "lines": [bound.as_json() for bound in bounds]})
    console.print_text(_result_table(bounds))
    if changes:
        console.print_text(_summary_text(applied=apply))


def _result_table(bounds: list[BoundMove]) -> object:
    result = table("table", "date", "now", "set back to", "candles between#", "trades between#")
    for bound in bounds:
        days = (f"{time:%Y-%m-%d}" if time else "-" for time in (bound.before, bound.after))
        result.add_row(bound.table, bound.bound, *days, f"{bound.candles:,}", f"{bound.trades:,}")
    return result


def _summary_text(*, applied: bool) -> str:
    effect = (
        "The next refresh reconciles the windows between the two dates: candles without trades are removed."
    )
    return f"Done. {effect}" if applied else f"{effect} This was a dry run: --apply sets the dates back."
