"""Layouts of Binance's public dumps: spot, USD-M and COIN-M futures, `trades` and `aggTrades`.

Times are in ms, or in µs for spot files since 2025. Futures files have a header since 2022. The quantity of
COIN-M files is in contracts, as in the exchange's volumes. Their column of base amounts is not read.
`trades` and `aggTrades` have different ids. Ingest only one of the two for a market.
The archive's name has the symbol. The exchange is BINANCE only for spot layouts, as spot and futures archives
have the same names.
"""

import re
from pathlib import Path

from k2_ohlcv.sources.formats.layout import Layout
from k2_ohlcv.sources.market import Market

_TRADES_CELLS = {"trade_id": 0, "price": 1, "quantity": 2, "timestamp": 4}
_AGG_TRADES_CELLS = {"trade_id": 0, "price": 1, "quantity": 2, "timestamp": 5}

LAYOUTS = (
    Layout(
        "Binance spot trades",
        "binance",
        "idddtbb",
        _TRADES_CELLS,
        (
            ("id", "price", "qty", "quoteqty", "time", "isbuyermaker", "isbestmatch"),
            ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match"),
        ),
    ),
    Layout(
        "Binance futures trades",
        "binance",
        "idddtb",
        _TRADES_CELLS,
        (
            ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker"),
            ("id", "price", "qty", "quoteqty", "time", "isbuyermaker"),
            ("id", "price", "qty", "base_qty", "time", "is_buyer_maker"),
            ("id", "price", "qty", "baseqty", "time", "isbuyermaker"),
        ),
    ),
    Layout(
        "Binance spot aggTrades",
        "binance",
        "iddiitbb",
        _AGG_TRADES_CELLS,
        (
            ("aggid", "price", "qty", "firstid", "lastid", "time", "isbuyermaker", "isbestmatch"),
            (
                "agg_trade_id",
                "price",
                "quantity",
                "first_trade_id",
                "last_trade_id",
                "transact_time",
                "is_buyer_maker",
                "is_best_match",
            ),
        ),
    ),
    Layout(
        "Binance futures aggTrades",
        "binance",
        "iddiitb",
        _AGG_TRADES_CELLS,
        (
            (
                "agg_trade_id",
                "price",
                "quantity",
                "first_trade_id",
                "last_trade_id",
                "transact_time",
                "is_buyer_maker",
            ),
            ("aggid", "price", "qty", "firstid", "lastid", "time", "isbuyermaker"),
        ),
    ),
)

# SYMBOL-trades-DATE.zip and SYMBOL-aggTrades-DATE.zip, of a day or a month. A few symbols have other letters.
_ARCHIVE_NAME = re.compile(
    r"([^\W a-z]{2,40})-(trades|aggTrades)-[0-9]{4}-[0-9]{2}(-[0-9]{2})?(\.[a-z]+){1,2}"
)


def archive_symbol(path: Path) -> tuple[str, str] | None:
    """The symbol and the kind (`trades` or `aggTrades`) in an archive's name; None for other names."""
    match = _ARCHIVE_NAME.fullmatch(path.name)
    return (match[1], match[2]) if match else None


def market_from_filename(path: Path, layout: Layout) -> Market:
    """Read the market from the name of an archive whose content has this layout."""
    named = archive_symbol(path)
    if named is None or not layout.name.endswith(f" {named[1]}"):
        return Market(None, None)
    return Market("BINANCE" if "spot" in layout.name else None, named[0])
