"""`k2-ohlcv trades delete` and `replace`: their options and help. Their work is in `trades`.

The commands import `trades` when called, so that `--help` is fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from k2_ohlcv.cli.console import Console
from k2_ohlcv.cli.options import AsJson, FileExchange, FileFormat, FileSymbol, format_examples
from k2_ohlcv.settings import Settings

trades = typer.Typer(
    name="trades",
    help="Correct trades: delete bad ones, or make a market equal to a file over the file's span.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_TIME_HELP = "a date, or a time as 2024-05-01T12:30:00Z; UTC if it has no zone."

Apply = Annotated[
    bool, typer.Option("--apply", help="Change the trades; else only report what would change.")
]
DeletedExchange = Annotated[str | None, typer.Option("--exchange", help="The exchange, with --symbol.")]
DeletedSymbol = Annotated[str | None, typer.Option("--symbol", help="The symbol, with --exchange.")]
FirstTime = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help=f"The first time: {_TIME_HELP}")
]
TimeAfter = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help=f"The time after the last one: {_TIME_HELP}")
]
TradeIds = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="ID", help="A trade id of that market; may be given several times."),
]
Reason = Annotated[
    str | None, typer.Option(help="The reason to record in rejected_trades; by default a sentence.")
]
SkipRejected = Annotated[
    bool, typer.Option("--skip-rejected", help="Leave out and record rows of FILE that cannot be trades.")
]


@trades.command(
    epilog=format_examples(
        "k2-ohlcv trades delete --exchange BINANCE --symbol BTCUSDT --id 4011 --id 4012",
        "k2-ohlcv trades delete --exchange KRAKEN --symbol XBTUSD --from 2024-05-01T12:00 --to 2024-05-02",
        "k2-ohlcv trades delete --from 2024-05-01 --to 2024-05-02 --reason 'test data' --apply --json",
    )
)
def delete(
    *,
    exchange: DeletedExchange = None,
    symbol: DeletedSymbol = None,
    start: FirstTime = None,
    end: TimeAfter = None,
    ids: TradeIds = None,
    reason: Reason = None,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Delete the trades that match all options. A dry run by default.

    Each trade is recorded in rejected_trades with the reason, before it is deleted. The next refresh
    recomputes its window. Ingesting the trade's file again would add it again: correct the file too.
    """
    from k2_ohlcv.cli.trades import run_delete

    with Console(Settings.from_environ(), as_json=as_json) as console:
        run_delete(
            console,
            exchange=exchange,
            symbol=symbol,
            start=start,
            end=end,
            ids=tuple(ids or ()),
            reason=reason,
            apply=apply,
        )


@trades.command(
    epilog=format_examples(
        "k2-ohlcv trades replace BTCUSDT-trades-2024-05-01.zip --exchange BINANCE --symbol BTCUSDT",
        "k2-ohlcv trades replace corrected.csv --exchange KRAKEN --symbol XBTUSD --apply",
        "k2-ohlcv trades replace revised.parquet --apply --json",
    )
)
def replace(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file of one market's trades, as for ingest.")
    ],
    *,
    exchange: FileExchange = None,
    symbol: FileSymbol = None,
    format: FileFormat = "auto",  # noqa: A002 # the name of the option
    reason: Reason = None,
    skip_rejected: SkipRejected = False,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Make a market's trades equal to FILE over its span, in one commit. A dry run by default.

    The span is from the file's first trade to its last, both included, to the microsecond. Stored trades in
    the span that FILE lacks, or has with other values, are deleted and recorded in rejected_trades. Other
    markets are not changed. A file of several markets is refused. A file with rows that cannot be trades is
    refused without --skip-rejected. The next refresh recomputes the changed windows.
    """
    from k2_ohlcv.cli.trades import run_replace

    with Console(Settings.from_environ(), as_json=as_json) as console:
        run_replace(
            console,
            file,
            exchange=exchange,
            symbol=symbol,
            format=format,
            reason=reason,
            skip_rejected=skip_rejected,
            apply=apply,
        )
