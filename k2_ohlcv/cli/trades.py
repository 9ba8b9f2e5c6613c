"""`k2-ohlcv trades delete` and `replace`: corrections of trades."""

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
    "No stored trade matches: nothing to do, and nothing was committed. Markets and ids are spelt as stored."
)
_NONE_REPLACED = "No trade differs: nothing to do, and nothing was committed."
#: Days that are shown; the JSON object has them all.
_MAX_DAYS = 40
#: Where nothing is said: trades of impossible times are among those that somebody wants to remove.
_FIRST = datetime.min.replace(tzinfo=UTC)


def run_delete(
    terminal: Console,
    *,
    exchange: str | None,
    symbol: str | None,
    start: str | None,
    end: str | None,
    ids: tuple[str, ...],
    reason: str | None,
    apply: bool,
) -> None:
    """Remove trades, or say which would go.

    Raises:
        UsageError: the options do not go together, or the trades must not be touched.
        CommitConflictError: other writers won every attempt.
    """
    if (exchange is None) != (symbol is None):
        raise UsageError("a market is an exchange and a symbol: give --exchange and --symbol together")
    market = (exchange, symbol) if exchange is not None and symbol is not None else None
    chosen = Selection(market, _interval(start, end), ids)
    with terminal.progress("trades delete", total=None):
        report = delete_trades(
            Lake.open(terminal.settings), chosen, reason=reason or DELETED_REASON, apply=apply
        )
    terminal.print_json(report.as_json())
    terminal.print_text(*_result_table(report, _NONE_DELETED))


def run_replace(
    terminal: Console,
    file: Path,
    *,
    exchange: str | None,
    symbol: str | None,
    format: str,  # noqa: A002 # the name of the option
    reason: str | None,
    skip_rejected: bool,
    apply: bool,
) -> None:
    """Make a market equal to a file over the file's span, or say what would change.

    Raises:
        UsageError: the file has several markets, or the trades must not be touched.
        BadFileError: the file cannot be read as a whole, or has rows that cannot be trades.
        CommitConflictError: other writers won every attempt.
    """
    settings = terminal.settings
    with terminal.progress("trades replace", total=None):
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
    terminal.print_json(report.as_json())
    terminal.print_text(*_result_table(report, _NONE_REPLACED))


def _interval(start: str | None, end: str | None) -> Interval | None:
    if start is None and end is None:
        return None
    first, after = _moment(start, _FIRST), _moment(end, LAST_MOMENT)
    if first >= after:
        raise UsageError(f"--from {start} is not before --to {end}")
    return Interval(first, after)


def _moment(text: str | None, otherwise: datetime) -> datetime:
    if text is None:
        return otherwise
    try:
        if len(text) == len("2024-05-01"):
            return day_start(date.fromisoformat(text))
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise UsageError(f"{text!r} is outside of the years 1 to 9999 in UTC") from None
    except ValueError:
        raise UsageError(
            f"{text!r} is neither a date nor a time: write 2024-05-01 or 2024-05-01T12:30:00"
        ) from None


def _result_table(report: CorrectionReport, nothing: str) -> list[object]:
    shown = table("exchange", "symbol", "day", "removed#", "added#")
    days = sorted(report.removed_per_day | report.added_per_day)
    for key in days[:_MAX_DAYS]:
        counts = (report.removed_per_day[key], report.added_per_day[key])
        shown.add_row(key[0], key[1], f"{key[2]}", *(f"{count:,}" for count in counts))
    lines: list[object] = [shown] if days else []
    if len(days) > _MAX_DAYS:
        lines.append(f"... and {len(days) - _MAX_DAYS:,} more days of markets.")
    for what, rows in (("removed", report.first_removed), ("added", report.first_added)):
        if rows:
            lines += [
                f"First {what} (exchange symbol timestamp,price,quantity,id):",
                *(f"  {r}" for r in rows),
            ]
    return [*lines, _summary_text(report, nothing)]


def _summary_text(report: CorrectionReport, nothing: str) -> str:
    rejected = (
        f" {report.rejected:,} rows of the file are no trades and are left out." if report.rejected else ""
    )
    if not report.removed and not report.added:
        return f"{nothing}{rejected}"
    what = (
        f"{report.removed:,} trades go and {report.added:,} come; {report.files:,} data files are rewritten."
    )
    if not report.applied:
        return (
            f"{what}{rejected} The refresh after it recomputes the windows of those trades. This was a dry "
            "run: --apply does it."
        )
    return f"Done: {what}{rejected} The next refresh recomputes the windows of those trades."
