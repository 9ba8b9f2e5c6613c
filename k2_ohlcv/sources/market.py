"""Finds the market (exchange and symbol) of a landing file.

The sources of each name, in order of precedence: the option, a column of the file, the path
`landing/<EXCHANGE>/<SYMBOL>/…`, the path `<EXCHANGE>/<SYMBOL>/file` in a folder that is ingested, the file
name of the format (Kraken's `PAIR.csv`, Binance's `SYMBOL-trades-DATE.zip`).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.printable import make_printable, make_printable_path
from k2_ohlcv.sources.name_columns import name_error


@dataclass(frozen=True)
class Market:
    """An exchange and a symbol. None means that each row has its own value."""

    exchange: str | None
    symbol: str | None


def market_from_path(path: Path, landing: Path | None) -> Market:
    """Read the market from the path `landing/<EXCHANGE>/<SYMBOL>/…`. Other paths give no names.

    Args:
        path: the file.
        landing: the landing folder. The default is the last folder named `landing` in the path.
    """
    path = path.absolute()
    if landing is not None and path.is_relative_to(landing.absolute()):
        inside = path.relative_to(landing.absolute()).parts
    elif "landing" in path.parts[:-1]:
        inside = path.parts[len(path.parts) - path.parts[::-1].index("landing") :]
    else:
        return Market(None, None)
    return Market(inside[0], inside[1]) if len(inside) > 2 else Market(None, None)


# Folders such as `spot/daily` or `2024/05` are no markets.
_EXCHANGE_FOLDER = re.compile(r"(?=.*[A-Z])[A-Z0-9_.-]+", re.ASCII)


def market_from_folder(path: Path, folder: Path | None, named: Market) -> Market:
    """Read the market from the path `<EXCHANGE>/<SYMBOL>/file` in a folder, else from the file name.

    Args:
        path: the file.
        folder: the folder that is ingested; None if the caller named the file itself.
        named: the market from the file name. Folders that name another symbol are no market.
    """
    inside = path.relative_to(folder).parts if folder is not None else ()
    if len(inside) != 3 or not _EXCHANGE_FOLDER.fullmatch(inside[0]):
        return named
    return Market(inside[0], inside[1]) if named.symbol in (None, inside[1]) else named


def resolve_market(
    path: Path, options: Market, columns: Collection[str], landing: Path | None, known: Market
) -> Market:
    """Find the market of a file.

    Args:
        path: the file.
        options: the exchange and symbol that the caller gives.
        columns: the roles of the file's columns.
        landing: the landing folder, if there is one.
        known: the market from the file name, for formats that define it, or from the folder.

    Raises:
        UsageError: the exchange or the symbol is unknown, or its name is not valid.
    """
    from_path = market_from_path(path, landing)
    names: dict[str, str | None] = {}
    for role in ("exchange", "symbol"):
        given = (getattr(options, role) or "").strip()
        if given:
            names[role] = given
        elif role in columns:
            names[role] = None
        else:
            names[role] = (getattr(from_path, role) or getattr(known, role) or "").strip()
            if not names[role]:
                raise UsageError(
                    f"{make_printable_path(path)}: the {role} is unknown: give --{role}, a column {role}, "
                    "or put the file at landing/<EXCHANGE>/<SYMBOL>/"
                )
        if (name := names[role]) and (error := name_error(role, name)):
            raise UsageError(
                f"{make_printable_path(path)}: the {error} ('{make_printable(name)}'): choose another"
            )
    return Market(names["exchange"], names["symbol"])
