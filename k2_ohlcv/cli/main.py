"""The command line: parses, calls, prints. What the commands do is in `cli`.

Nothing heavy is imported here: `--help` answers at once. With `--json` a command prints one JSON object on
stdout and nothing else there; progress and errors are on stderr. Exit codes: 0 done, 1 the work failed,
2 wrong use.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from k2_ohlcv.cli.console import Console
from k2_ohlcv.cli.options import AsJson, format_examples
from k2_ohlcv.cli.trades_options import trades
from k2_ohlcv.domain.addresses import redact_secrets
from k2_ohlcv.domain.errors import K2Error, RunInterruptedError, UsageError
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.settings import Settings

app = typer.Typer(
    name="k2-ohlcv",
    help="Exact OHLCV candles from crypto trades, in Apache Iceberg, under K2_HOME (default .k2).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(trades)

#: `all`, or one of the timeframes: a wrong one is refused with these names.
TimeframeChoice = StrEnum("TimeframeChoice", {"all": "all"} | {t.name: t.name for t in TIMEFRAMES})  # type: ignore[misc]

Timeframes = Annotated[TimeframeChoice, typer.Option(help="The table, or all of them.")]
FirstDay = Annotated[str | None, typer.Option("--from", metavar="DATE", help="The first day, as YYYY-MM-DD.")]
DayAfter = Annotated[str | None, typer.Option("--to", metavar="DATE", help="The day after the last one.")]


@app.command(
    epilog=format_examples(
        "k2-ohlcv ingest BTCUSDT-trades-2024-05-01.zip --exchange BINANCE --symbol BTCUSDT",
        "k2-ohlcv ingest .k2/landing/KRAKEN/XBTUSD/*.csv",
        "k2-ohlcv ingest trades.parquet --json",
    )
)
def ingest(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files of trades: CSV, gzip, zip, Parquet.")
    ],
    exchange: Annotated[
        str | None, typer.Option(help="The exchange, if neither path nor columns say it.")
    ] = None,
    symbol: Annotated[
        str | None, typer.Option(help="The symbol, if neither path nor columns say it.")
    ] = None,
    format: Annotated[  # noqa: A002 # the name of the option
        str, typer.Option(help="The format; auto tells it from the content.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Add the trades of files to the trades table, each trade once.

    The same file again adds nothing. What cannot be a trade goes to rejected_trades, with the reason.
    """
    from k2_ohlcv.cli.ingest import ingest_files

    with _open_console(as_json) as terminal:
        ingest_files(terminal, files, exchange=exchange, symbol=symbol, format=format)


@app.command(
    epilog=format_examples(
        "k2-ohlcv rebuild",
        "k2-ohlcv rebuild --timeframe 1m --from 2013-11-25 --to 2013-12-01",
        "k2-ohlcv rebuild --timeframe 1d --json",
    )
)
def rebuild(
    timeframe: Timeframes = TimeframeChoice.all,  # type: ignore[attr-defined]
    start: FirstDay = None,
    end: DayAfter = None,
    as_json: AsJson = False,
) -> None:
    """Make candle tables equal to the trades, over days: a run of the Dagster job, which the UI shows.

    By default all days that have trades or candles. 1d is rebuilt by whole months.
    """
    from k2_ohlcv.cli.rebuild import rebuild_tables

    with _open_console(as_json) as terminal:
        rebuild_tables(terminal, timeframe.value, start, end)


@app.command(
    epilog=format_examples(
        "k2-ohlcv refresh",
        "k2-ohlcv refresh --timeframe 1m --json",
        "k2-ohlcv refresh --explain",
    )
)
def refresh(
    timeframe: Timeframes = TimeframeChoice.all,  # type: ignore[attr-defined]
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what it would do and why, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring candle tables to the trades as they are now, reading only what changed since last time.

    What the sensors do while Dagster's daemon runs. A table that is up to date is left alone.
    """
    from k2_ohlcv.cli.refresh import refresh_tables

    with _open_console(as_json) as terminal:
        refresh_tables(terminal, timeframe.value, explain=explain)


@app.command(
    epilog=format_examples(
        "k2-ohlcv validate",
        "k2-ohlcv validate --timeframe 1m --lookback-days 30",
        "k2-ohlcv validate --from 2013-11-25 --to 2013-12-02 --json",
    )
)
def validate(
    timeframe: Timeframes = TimeframeChoice.all,  # type: ignore[attr-defined]
    lookback_days: Annotated[
        int | None,
        typer.Option(metavar="N", help="So many days back from the newest candle (7, if nothing is said)."),
    ] = None,
    start: FirstDay = None,
    end: DayAfter = None,
    as_json: AsJson = False,
) -> None:
    """Hold the stored candles to every check, their totals recomputed from the trades.

    Exits with 1 where a check fails that means wrong candles.
    """
    from k2_ohlcv.cli.validate import validate_tables

    with _open_console(as_json) as terminal:
        validate_tables(terminal, timeframe.value, lookback_days=lookback_days, start=start, end=end)


@app.command(
    epilog=format_examples(
        "k2-ohlcv retention",
        "k2-ohlcv retention --apply",
        "k2-ohlcv retention --as-of 2024-06-30 --timeframe 1m --json",
    )
)
def retention(
    apply: Annotated[bool, typer.Option("--apply", help="Let it go; else only say what would go.")] = False,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="The day to measure ages from; else that of the newest trade."),
    ] = None,
    timeframe: Timeframes = TimeframeChoice.all,  # type: ignore[attr-defined]
    as_json: AsJson = False,
) -> None:
    """Drop the partitions that are past their time, and the files that nothing needs. A dry run by default.

    How long what is kept: K2_RETENTION_1M (5M, 30M, 1H, 1D, TRADES) and K2_SNAPSHOT_DAYS.
    """
    from k2_ohlcv.cli.retention import run_retention

    with _open_console(as_json) as terminal:
        run_retention(terminal, apply=apply, as_of=as_of, timeframe=timeframe.value)


@app.command(
    epilog=format_examples(
        "k2-ohlcv history",
        "k2-ohlcv history --frozen-before 2024-01-01",
        "k2-ohlcv history --expired-before 2024-01-01 --timeframe 1m --apply",
    )
)
def history(
    frozen_before: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Move the line before which candles are frozen back to this day."),
    ] = None,
    expired_before: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Move the line before which candles are gone back to this day."),
    ] = None,
    timeframe: Timeframes = TimeframeChoice.all,  # type: ignore[attr-defined]
    apply: Annotated[bool, typer.Option("--apply", help="Move it; else only say what would move.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where each table's history begins, or move a line of retention back. A dry run by default.

    Before the frozen line trades are gone and candles are the only record left. Candles between the new and
    the old line are made equal to the trades by the next refresh, so those without trades are removed. The
    frozen line moves in all tables. 1970-01-01 means no line at all.
    """
    from k2_ohlcv.cli.history import run_history

    with _open_console(as_json) as terminal:
        run_history(
            terminal,
            frozen_before=frozen_before,
            expired_before=expired_before,
            timeframe=timeframe.value,
            apply=apply,
        )


@app.command(epilog=format_examples("k2-ohlcv status", "k2-ohlcv status --json"))
def status(as_json: AsJson = False) -> None:
    """Show what each table holds, and how far it is behind the trades."""
    from k2_ohlcv.cli.status import show_status

    with _open_console(as_json) as terminal:
        show_status(terminal)


@app.command(epilog=format_examples("k2-ohlcv demo", "K2_HOME=/tmp/k2 k2-ohlcv demo --json"))
def demo(as_json: AsJson = False) -> None:
    """Make all five tables from a bundled week of real trades, and hold them against independent candles.

    Run again, it changes nothing and says so.
    """
    from k2_ohlcv.cli.demo import run_demo

    with _open_console(as_json) as terminal:
        run_demo(terminal)


def _open_console(as_json: bool) -> Console:
    return Console(Settings.from_environ(), as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Errors that a person can act on are a line on stderr, without a traceback.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(arguments, prog_name="k2-ohlcv")
    except UsageError as error:
        _exit_with_error(error, 2)
    except RunInterruptedError as error:
        _exit_with_error(error, 130)
    except K2Error as error:
        _exit_with_error(error, 1)
    except OSError as error:
        _exit_with_error(f"{error.filename}: {error.strerror}" if error.filename else error, 1)
    except KeyboardInterrupt:
        _exit_with_error("interrupted", 130)
    except Exception as error:
        from k2_ohlcv.lake.storage_errors import describe_storage_error

        explained = describe_storage_error(error)
        if explained is None:
            raise
        _exit_with_error(explained, 1)


def _exit_with_error(error: object, code: int) -> None:
    from k2_ohlcv.cli.console import report_error

    report_error(redact_secrets(str(error)))
    sys.exit(code)


if __name__ == "__main__":
    main()
