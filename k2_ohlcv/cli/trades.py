"""`k2-ohlcv trades delete` and `replace`: corrections of trades. Their options are in `trades_options`."""

from datetime import UTC, date, datetime
from pathlib import Path

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import LAST_MOMENT, Interval, day_start
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.correction_report import CorrectionReport
from k2_ohlcv.operations.delete_trades import DELETED_REASON, Selection, delete_trades
from k2_ohlcv.operations.replace_trades import REPLACED_REASON, replace_trades

_NONE_DELETED = (
    "No stored trade matches. Nothing was committed. Write markets and ids exactly as they are stored."
)
_NONE_REPLACED = "No trade differs. Nothing was committed."
#: The most days in the output. The JSON object has all days.
_MAX_DAYS = 40
#: The default of --from. It includes trades of impossible times, which a person may want to delete.
_FIRST = datetime.min.replace(tzinfo=UTC)


def run_delete(
    console: Console,
    *,
    exchange: str | None,
    symbol: str | None,
    start: str | None,
    end: str | None,
    ids: tuple[str, ...],
    reason: str | None,
    apply: bool,
) -> None:
    """Delete trades, or show which would be deleted.

    Raises:
        UsageError: the options contradict each other, or the trades must not be changed.
        CommitConflictError: other writers committed first at every attempt.
    """
    if (exchange is None) != (symbol is None):
        raise UsageError("a market is an exchange and a symbol: give --exchange and --symbol together")
    market = (exchange, symbol) if exchange is not None and symbol is not None else None
    selection = Selection(market, _interval(start, end), ids)
    with console.progress("trades delete", total=None):
        report = delete_trades(
            Lake.open(console.settings), selection, reason=reason or DELETED_REASON, apply=apply
        )
    console.print_json(report.as_json())
    console.print_text(*_result_table(report, _NONE_DELETED))


def run_replace(
    console: Console,
    file: Path,
    *,
    exchange: str | None,
    symbol: str | None,
    format: str,  # noqa: A002 # the name of the option
    reason: str | None,
    skip_rejected: bool,
    apply: bool,
) -> None:
    """Make a market equal to a file over the file's span, or show what would change.

    Raises:
        UsageError: the file has several markets, or the trades must not be changed.
        BadFileError: the file cannot be read to its end, or has rows that cannot be trades.
        CommitConflictError: other writers committed first at every attempt.
    """
    settings = console.settings
    with console.progress("trades replace", total=None):
        report = replace_trades(
            Lake.open(settings),
            file.absolute(),
            exchange=exchange,
            symbol=symbol,
            format=format,
            landing=settings.landing,
            workspace=settings.home / "work",
            reason=reason or REPLACED_REASON,
            skip_rejected=skip_rejected,
            apply=apply,
        )
    console.print_json(report.as_json())
    console.print_text(*_result_table(report, _NONE_REPLACED))


def _interval(start: str | None, end: str | None) -> Interval | None:
    if start is None and end is None:
        return None
    first, after = _parse_time(start, _FIRST), _parse_time(end, LAST_MOMENT)
    if first >= after:
        raise UsageError(f"--from {start} is not before --to {end}")
    return Interval(first, after)


def _parse_time(text: str | None, default: datetime) -> datetime:
    if text is None:
        return default
    try:
        if len(text) == len("2024-05-01"):
            return day_start(date.fromisoformat(text))
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise UsageError(f"{text!r} is outside of the years 1 to 9999 in UTC") from None
    except ValueError:
        raise UsageError(
            f"{text!r} is neither a date nor a time: write 2024-05-01 or 2024-05-01T12:30:00"
        ) from None


def _result_table(report: CorrectionReport, unchanged_text: str) -> list[object]:
    result = table("exchange", "symbol", "day", "removed#", "added#")
    days = sorted(report.removed_per_day | report.added_per_day)
    for key in days[:_MAX_DAYS]:
        counts = (report.removed_per_day[key], report.added_per_day[key])
        result.add_row(key[0], key[1], f"{key[2]}", *(f"{count:,}" for count in counts))
    parts: list[object] = [result] if days else []
    if len(days) > _MAX_DAYS:
        parts.append(f"... and {len(days) - _MAX_DAYS:,} more days of markets.")
    for change, rows in (("removed", report.first_removed), ("added", report.first_added)):
        if rows:
            parts += [
                f"First {change} (exchange symbol timestamp,price,quantity,id):",
                *(f"  {row}" for row in rows),
            ]
    return [*parts, _summary_text(report, unchanged_text)]


def _summary_text(report: CorrectionReport, unchanged_text: str) -> str:
    rejected = (
        f" {report.rejected:,} rows of the file cannot be trades and are left out." if report.rejected else ""
    )
    if not report.removed and not report.added:
        return f"{unchanged_text}{rejected}"
    counts = (
        f"Trades: {report.removed:,} removed, {report.added:,} added. Data files: {report.files:,} rewritten."
    )
    if not report.applied:
        return f"{counts}{rejected} This was a dry run: --apply changes the trades."
    return f"{counts}{rejected} The next refresh recomputes the windows of these trades."
