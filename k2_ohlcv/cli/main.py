"""The entry point: the commands with their options and help. The work of a command is in its own module.

Commands import those modules when called, so that `--help` is fast. With `--json` stdout has one JSON object.
"""

from pathlib import Path
from typing import Annotated

import typer

from k2_ohlcv.cli.catalog_options import catalog
from k2_ohlcv.cli.console import Console
from k2_ohlcv.cli.exit_codes import exit_on_error
from k2_ohlcv.cli.options import (
    AsJson,
    DayAfter,
    FileExchange,
    FileFormat,
    FileSymbol,
    FirstDay,
    TimeframeChoice,
    Timeframes,
    format_examples,
)
from k2_ohlcv.cli.trades_options import trades
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
app.add_typer(catalog)


@app.command(
    epilog=format_examples(
        "k2-ohlcv ingest BTCUSDT-trades-2024-05-01.zip",
        "k2-ohlcv ingest downloads/",
        "k2-ohlcv ingest futures/ --exchange BINANCE_UM",
    )
)
def ingest(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV, gzip, zip or Parquet files, or folders.")
    ],
    exchange: FileExchange = None,
    symbol: FileSymbol = None,
    format: FileFormat = "auto",  # noqa: A002 # the name of the option
    as_json: AsJson = False,
) -> None:
    """Add the trades of files to the trades table, each trade once.

    The same file again adds nothing. Rows that cannot be trades go to rejected_trades, with the reason.
    Files of folders that cannot be ingested are named, and the exit code is 1. All others are ingested.
    The market is in an option, a column, the path EXCHANGE/SYMBOL/file, or the name of a Binance archive.
    """
    from k2_ohlcv.cli.ingest import ingest_files

    with _open_console(as_json) as console:
        ingest_files(console, files, exchange=exchange, symbol=symbol, format=format)


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
    """Make whole days of candle tables equal to the trades. The Dagster job does it, so the UI shows the run.

    The default is all days that have trades or candles. 1d is rebuilt by whole months.
    """
    from k2_ohlcv.cli.rebuild import rebuild_tables

    with _open_console(as_json) as console:
        rebuild_tables(console, timeframe.value, start, end)


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
        bool, typer.Option("--explain", help="Print what a refresh would do and why, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute the dirty windows of candle tables, reading only trades that changed.

    Sensors do this while Dagster's daemon runs. A table that is up to date is not changed.
    """
    from k2_ohlcv.cli.refresh import refresh_tables

    with _open_console(as_json) as console:
        refresh_tables(console, timeframe.value, explain=explain)


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
        typer.Option(metavar="N", help="Days to check, up to the newest candle (default 7)."),
    ] = None,
    start: FirstDay = None,
    end: DayAfter = None,
    as_json: AsJson = False,
) -> None:
    """Run every check on stored candles. Their totals are recomputed from the trades.

    The exit code is 1 if a check fails that means wrong candles.
    """
    from k2_ohlcv.cli.validate import validate_tables

    with _open_console(as_json) as console:
        validate_tables(console, timeframe.value, lookback_days=lookback_days, start=start, end=end)


@app.command(
    epilog=format_examples(
        "k2-ohlcv retention",
        "k2-ohlcv retention --apply",
        "k2-ohlcv retention --as-of 2024-06-30 --timeframe 1m --json",
    )
)
def retention(
    apply: Annotated[
        bool, typer.Option("--apply", help="Drop it; else only report what would be dropped.")
    ] = False,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="The day to measure ages from; else the newest trade's."),
    ] = None,
    timeframe: Timeframes = TimeframeChoice.all,  # type: ignore[attr-defined]
    as_json: AsJson = False,
) -> None:
    """Drop partitions past retention, and remove unreferenced files. A dry run by default.

    Retention is set by K2_RETENTION_1M (5M, 30M, 1H, 1D, TRADES) and K2_SNAPSHOT_DAYS.
    """
    from k2_ohlcv.cli.retention import run_retention

    with _open_console(as_json) as console:
        run_retention(console, apply=apply, as_of=as_of, timeframe=timeframe.value)


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
        typer.Option(metavar="DATE", help="The earlier day to which frozen_before is set back."),
    ] = None,
    expired_before: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="The earlier day to which expired_before is set back."),
    ] = None,
    timeframe: Timeframes = TimeframeChoice.all,  # type: ignore[attr-defined]
    apply: Annotated[
        bool, typer.Option("--apply", help="Set it back; else only report what would change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show frozen_before and expired_before of each table, or set one back. A dry run by default.

    Trades before frozen_before have expired, and candles are their only record. Candles before expired_before
    have been dropped. The next refresh reconciles the windows between the new and the old date, so it removes
    candles without trades there. frozen_before is set in all tables. 1970-01-01 removes the date.
    """
    from k2_ohlcv.cli.history import run_history

    with _open_console(as_json) as console:
        run_history(
            console,
            frozen_before=frozen_before,
            expired_before=expired_before,
            timeframe=timeframe.value,
            apply=apply,
        )


@app.command(epilog=format_examples("k2-ohlcv status", "k2-ohlcv status --json"))
def status(as_json: AsJson = False) -> None:
    """Show the rows and partitions of each table, and how far each candle table lags."""
    from k2_ohlcv.cli.status import show_status

    with _open_console(as_json) as console:
        show_status(console)


@app.command(epilog=format_examples("k2-ohlcv demo", "K2_HOME=/tmp/k2 k2-ohlcv demo --json"))
def demo(as_json: AsJson = False) -> None:
    """Make all five tables from a bundled week of real trades, and compare them with independent candles.

    A second run changes nothing and reports that.
    """
    from k2_ohlcv.cli.demo import run_demo

    with _open_console(as_json) as console:
        run_demo(console)


def _open_console(as_json: bool) -> Console:
    return Console(Settings.from_environ(), as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. An error that a person can act on is one line on stderr, without a traceback.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(arguments, prog_name="k2-ohlcv")
    except (Exception, KeyboardInterrupt) as error:
        exit_on_error(error)
        raise


if __name__ == "__main__":
    main()
