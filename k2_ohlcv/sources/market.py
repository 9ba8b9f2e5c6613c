"""Which market a file is of: from the options, its own columns, or where it lies.

In this order, for exchange and symbol each alone: the option; a column of that name; the path
`landing/<EXCHANGE>/<SYMBOL>/…`; what the format itself knows (Kraken's `PAIR.csv`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.printable import make_printable, make_printable_path
from k2_ohlcv.sources.name_columns import name_error


@dataclass(frozen=True)
class Market:
    """An exchange and a symbol; None where each row says its own."""

    exchange: str | None
    symbol: str | None


def market_from_path(path: Path, landing: Path | None) -> Market:
    """What the path `landing/<EXCHANGE>/<SYMBOL>/…` says, or nothing where the file lies elsewhere.

    Args:
        path: the file.
        landing: the landing folder; by default the last folder called `landing` in the path.
    """
    path = path.absolute()
    if landing is not None and path.is_relative_to(landing.absolute()):
        inside = path.relative_to(landing.absolute()).parts
    elif "landing" in path.parts[:-1]:
        inside = path.parts[len(path.parts) - path.parts[::-1].index("landing") :]
    else:
        return Market(None, None)
    return Market(inside[0], inside[1]) if len(inside) > 2 else Market(None, None)


def resolve_market(
    path: Path, options: Market, columns: Collection[str], landing: Path | None, known: Market
) -> Market:
    """The market of a file.

    Args:
        path: the file.
        options: what the caller says.
        columns: the roles that the file has columns for.
        landing: the landing folder, where there is one.
        known: what the format itself knows.

    Raises:
        UsageError: nothing says the exchange or the symbol, or it is said with a name that cannot be one.
    """
    found = market_from_path(path, landing)
    names: dict[str, str | None] = {}
    for role in ("exchange", "symbol"):
        given = (getattr(options, role) or "").strip()
        if given:
            names[role] = given
        elif role in columns:
            names[role] = None
        else:
            names[role] = (getattr(found, role) or getattr(known, role) or "").strip()
            if not names[role]:
                raise UsageError(
                    f"{make_printable_path(path)}: nothing says the {role}: give --{role}, a column {role}, "
                    "or put the file at landing/<EXCHANGE>/<SYMBOL>/"
                )
        if (name := names[role]) and (fault := name_error(role, name)):
            raise UsageError(
                f"{make_printable_path(path)}: the {fault} ('{make_printable(name)}'): give another"
            )
    return Market(names["exchange"], names["symbol"])
