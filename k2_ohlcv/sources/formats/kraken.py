"""Kraken's dump: `PAIR.csv`, no header, `unixtime,price,volume`, no ids; equal rows are distinct trades.

Nothing inside names the market. The file's name gives the symbol where it is a pair such as `XBTUSD`. The
exchange is taken to be KRAKEN only where the caller says `--format kraken`: others publish the same three
columns.
"""

import re
from pathlib import Path

from k2_ohlcv.sources.formats.layout import Layout
from k2_ohlcv.sources.market import Market

LAYOUT = Layout("Kraken trades", "kraken", "tdd", {"timestamp": 0, "price": 1, "quantity": 2})

_PAIR_NAME = re.compile(r"([A-Z0-9]{5,16})\.csv(\.gz|\.zip)?", re.ASCII)


def market_from_filename(path: Path, *, said: bool) -> Market:
    """What the file's name says of its market, and, where the format was asked for, the format itself."""
    pair = _PAIR_NAME.fullmatch(path.name)
    return Market("KRAKEN" if said else None, pair.group(1) if pair else None)
