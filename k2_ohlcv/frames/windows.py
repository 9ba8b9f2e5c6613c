"""Computed windows as Arrow tables, and their roll-up into windows of a longer timeframe.

A window has the exact notional, from which `candles` computes the vwap. Computing windows from trades is in
`engine.rollup`.
"""

import polars as pl
import pyarrow as pa

from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.types import NOTIONAL, PRICE, VOLUME, ExactDecimal
from k2_ohlcv.frames.candles import window_start_of

#: The column that counts invalid rows, in trades and in their windows.
INVALID_ROWS = "misfits"

#: The columns of computed windows, one row per window. notional is the exact sum of price x quantity.
#: misfits counts trades that cannot be read exactly. If a window has some, its other values have no meaning.
WINDOW_SCHEMA = pa.schema(
    [
        ("symbol", pa.string()),
        ("exchange", pa.string()),
        ("window_start", pa.timestamp("us", "UTC")),
        ("open_price", pa.decimal128(*PRICE)),
        ("high_price", pa.decimal128(*PRICE)),
        ("low_price", pa.decimal128(*PRICE)),
        ("close_price", pa.decimal128(*PRICE)),
        ("volume", pa.decimal128(*VOLUME)),
        ("trade_count", pa.int64()),
        ("notional", pa.decimal128(*NOTIONAL)),
        (INVALID_ROWS, pa.int64()),
    ]
)


def roll_up(windows: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Roll up whole windows into windows of a longer timeframe, exactly.

    Windows of one timeframe do not overlap. The open of a longer window is therefore the open of its earliest
    shorter window, and needs no order of trades. A volume that does not fit becomes null. A notional may
    overflow: `candles.candles_from_windows` refuses such a window, because its high x volume is too large.

    Args:
        windows: the columns of `WINDOW_SCHEMA`, each window once. Their lengths divide the length of the
            timeframe.
        timeframe: the timeframe of the result.
    """
    start = window_start_of(pl.col("window_start").dt.epoch("us"), timeframe)
    ordered = windows.sort("window_start").with_columns(start.alias("window_start"))
    rolled = ordered.group_by("symbol", "exchange", "window_start").agg(
        pl.col("open_price").first(),
        pl.col("high_price").max(),
        pl.col("low_price").min(),
        pl.col("close_price").last(),
        _exact_sum("volume", VOLUME),
        pl.col("trade_count").sum(),
        _exact_sum("notional", NOTIONAL),
        pl.col(INVALID_ROWS).sum(),
    )
    return rolled.select(WINDOW_SCHEMA.names).cast(windows.schema)


def _exact_sum(name: str, type_: ExactDecimal) -> pl.Expr:
    """The sum of a column, null if it has too many digits or if one of its values did not fit."""
    column = pl.col(name)
    total = column.sum().cast(pl.Decimal(*type_), strict=False)
    return pl.when(column.null_count() == 0).then(total).alias(name)
