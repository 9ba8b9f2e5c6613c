"""`k2-ohlcv trades …`: the commands' options and help. What they do is in `trades`.

Nothing heavy is imported here: `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from k2_ohlcv.cli.console import Console
from k2_ohlcv.cli.options import AsJson, format_examples
from k2_ohlcv.settings import Settings

trades = typer.Typer(
    name="trades",
    help="Correct the trades: remove bad ones, or make a market equal to a file over the file's span.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Apply = Annotated[bool, typer.Option("--apply", help="Do it; else only say what would change.")]
Moment = "a date, or a time as 2024-05-01T12:30:00Z; UTC where it says no zone."


@trades.command(
    epilog=format_examples(
        "k2-ohlcv trades delete --exchange BINANCE --symbol BTCUSDT --id 4011 --id 4012",
        "k2-ohlcv trades delete --exchange KRAKEN --symbol XBTUSD --from 2024-05-01T12:00 --to 2024-05-02",
        "k2-ohlcv trades delete --from 2024-05-01 --to 2024-05-02 --reason 'test data' --apply --json",
    )
)
def delete(
    *,
    exchange: Annotated[str | None, typer.Option(help="The exchange, with --symbol.")] = None,
    symbol: Annotated[str | None, typer.Option(help="The symbol, with --exchange.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help=f"The first moment: {Moment}")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help=f"The moment after the last one: {Moment}")
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="A trade id of that market; may be given several times."),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(
            help="Why, for rejected_trades. By default: deleted: removed by k2-ohlcv trades delete."
        ),
    ] = None,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Remove trades to which all options apply. A dry run by default.

    Each is kept in rejected_trades with the reason, before it goes. The next refresh recomputes their
    windows. The file that they came from would bring them back if it were ingested again: correct it too.
    """
    from k2_ohlcv.cli.trades import run_delete

    with Console(Settings.from_environ(), as_json=as_json) as terminal:
        run_delete(
            terminal,
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
    exchange: Annotated[
        str | None, typer.Option(help="The exchange, if neither path nor columns say it.")
    ] = None,
    symbol: Annotated[
        str | None, typer.Option(help="The symbol, if neither path nor columns say it.")
    ] = None,
    format: Annotated[  # noqa: A002 # the name of the option
        str, typer.Option(help="The format; auto tells it from the content.")
    ] = "auto",
    reason: Annotated[
        str | None, typer.Option(help="Why stored trades go, for rejected_trades; a sentence by default.")
    ] = None,
    skip_rejected: Annotated[
        bool,
        typer.Option("--skip-rejected", help="Leave out and record rows of FILE that cannot be trades."),
    ] = False,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Make a market's trades equal to FILE over its span, in one commit. A dry run by default.

    The span goes from the file's first trade to its last, both included, to the microsecond. Stored trades
    in it that FILE has not, or has with other values, go, and are kept in rejected_trades. Other markets are
    not touched. A file of several markets is refused. So is one with rows that cannot be trades, unless
    --skip-rejected says that they are none. The next refresh recomputes the windows that changed.
    """
    from k2_ohlcv.cli.trades import run_replace

    with Console(Settings.from_environ(), as_json=as_json) as terminal:
        run_replace(
            terminal,
            file,
            exchange=exchange,
            symbol=symbol,
            format=format,
            reason=reason,
            skip_rejected=skip_rejected,
            apply=apply,
        )
