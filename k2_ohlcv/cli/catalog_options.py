"""`k2-ohlcv catalog restore`: its options and help. Its work is in `catalog`.

The command imports `catalog` when called, so that `--help` is fast.
"""

from typing import Annotated

import typer

from k2_ohlcv.cli.console import Console
from k2_ohlcv.cli.options import AsJson, format_examples
from k2_ohlcv.settings import Settings

catalog = typer.Typer(
    name="catalog",
    help="Restore the catalog from the warehouse, after it was lost or put back from a backup.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@catalog.callback()
def _catalog() -> None:
    """Restore the catalog from the warehouse, after it was lost or put back from a backup."""


@catalog.command(
    epilog=format_examples(
        "k2-ohlcv catalog restore",
        "k2-ohlcv catalog restore --apply",
        "k2-ohlcv catalog restore --location s3://lake/warehouse/market_data/gold_crypto_trades --json",
    )
)
def restore(
    locations: Annotated[
        list[str] | None,
        typer.Option(
            "--location",
            metavar="FOLDER",
            help="The folder of a table that has several; may be given several times.",
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Change the catalog; else only report what would change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register tables again from the newest good metadata file in the warehouse. A dry run by default.

    A table that the catalog lacks is registered. A pointer to an older version is moved forward, and never
    back. External trades tables are not touched. Stop the daemon and all other writers first. The exit code
    is 1 if a table needs a decision.
    """
    from k2_ohlcv.cli.catalog import run_restore

    with Console(Settings.from_environ(), as_json=as_json) as console:
        run_restore(console, locations=tuple(locations or ()), apply=apply)
