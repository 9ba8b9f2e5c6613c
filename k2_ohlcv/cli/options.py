"""Options that several commands share, and the form of their help."""

from enum import StrEnum
from typing import Annotated

import typer

from k2_ohlcv.domain.timeframe import TIMEFRAMES

#: `all`, or one timeframe. typer refuses any other value and lists these.
TimeframeChoice = StrEnum("TimeframeChoice", {"all": "all"} | {t.name: t.name for t in TIMEFRAMES})  # type: ignore[misc]

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")
]
Timeframes = Annotated[TimeframeChoice, typer.Option(help="The table, or all of them.")]
FirstDay = Annotated[str | None, typer.Option("--from", metavar="DATE", help="The first day, as YYYY-MM-DD.")]
DayAfter = Annotated[str | None, typer.Option("--to", metavar="DATE", help="The day after the last one.")]
FileExchange = Annotated[
    str | None, typer.Option(help="The exchange, if neither the path nor a column has it.")
]
FileSymbol = Annotated[str | None, typer.Option(help="The symbol, if neither the path nor a column has it.")]
FileFormat = Annotated[str, typer.Option(help="The format; auto detects it from the content.")]


def format_examples(*commands: str) -> str:
    """The examples at the end of a command's help."""
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  [dim]$[/dim] {command}" for command in commands)
