"""Layouts of Binance's public dumps: spot, USD-M and COIN-M futures, `trades` and `aggTrades`.

Times are in ms, or in µs for spot files since 2025. Futures files have a header since 2022. The quantity of
COIN-M files is in contracts, as in the exchange's volumes. Their column of base amounts is not read.
`trades` and `aggTrades` have different ids. Ingest only one of the two for a market.
"""

from k2_ohlcv.sources.formats.layout import Layout

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
