"""The layout of Kraken's dumps: `PAIR.csv`, no header, `unixtime,price,volume`, no ids.

Equal rows are distinct trades. The content does not name the market. The file name gives the symbol if it is
a pair such as `XBTUSD`. The exchange is KRAKEN only with `--format kraken`, because other exchanges publish
the same three columns.
"""

import re
from pathlib import Path

from k2_ohlcv.sources.formats.layout import Layout
from k2_ohlcv.sources.market import Market

LAYOUT = Layout("Kraken trades", "kraken", "tdd", {"timestamp": 0, "price": 1, "quantity": 2})

_PAIR_NAME = re.compile(r"([A-Z0-9]{5,16})\.csv(\.gz|\.zip)?", re.ASCII)


def market_from_filename(path: Path, *, is_chosen: bool) -> Market:
    """Read the symbol from the file name. If the caller chose the format, the exchange is KRAKEN."""
    pair = _PAIR_NAME.fullmatch(path.name)
    return Market("KRAKEN" if is_chosen else None, pair.group(1) if pair else None)
