"""The command line: `python -m bench [--quick] [SUITE…]`."""

from dataclasses import replace
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status

from bench.environment import describe_environment
from bench.lake import ROOT, Dataset
from bench.report import Row, format_markdown
from bench.suites import SUITES

_FULL = Dataset(rows=2_400_000, days=10, stored_days=100)
_QUICK = Dataset(rows=60_000, days=3)

_EPILOG = "Examples: python -m bench; python -m bench --quick; python -m bench day ten-days --runs 9"


def bench(
    suites: Annotated[
        list[str] | None,
        typer.Argument(help="; ".join(f"{name}: {suite.about}" for name, suite in SUITES.items())),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Little data, to test the benchmark itself.")
    ] = False,
    runs: Annotated[
        int, typer.Option(min=1, help="Warm runs of each suite; slow suites run at most 3 times.")
    ] = 5,
    stored: Annotated[
        int | None,
        typer.Option(min=2, help="Trades in the larger lake of refresh; the default is 240 million."),
    ] = None,
) -> None:
    """Measure K2 OHLCV, DuckDB and Polars on generated trades, which are stored in .bench/ between runs.

    Prints a table and writes it to .bench/last.md (--quick: .bench/quick.md). Goals are shown, not enforced.
    Candles that differ between the engines are an error.
    """
    unknown = [name for name in suites or [] if name not in SUITES]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(SUITES)}")
    data, runs = (_QUICK, min(runs, 2)) if quick else (_FULL, runs)
    if stored:
        data = replace(data, stored_days=max(2, round(stored / data.rows)))
    console = Console(stderr=True)
    environment = describe_environment()
    rows: list[Row] = []
    with console.status("generating trades, once") as status:
        _ = data.lake, data.csv
        for name in suites or [name for name, suite in SUITES.items() if not suite.is_opt_in]:
            rows += SUITES[name].measure(data, runs, partial(_show_progress, status, name))
    kind = "Quick benchmark, too small for the goals," if quick else "Benchmark"
    title = f"{kind} on {data.rows:,} generated trades a day over 4 markets, {data.days} days"
    text = format_markdown(rows, environment, title)
    (ROOT / ("quick.md" if quick else "last.md")).write_text(text, encoding="utf-8")
    print(text, end="")


def _show_progress(status: Status, suite: str, message: str) -> None:
    status.update(f"{suite}: {message}")


app = typer.Typer(add_completion=False)
app.command(epilog=_EPILOG)(bench)

if __name__ == "__main__":
    app(prog_name="python -m bench")
