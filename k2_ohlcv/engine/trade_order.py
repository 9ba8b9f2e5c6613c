"""The order of the trades of a window, which decides open and close: by time, then by id, then by price.

The exact order is a struct. An engine keeps an object a group to find its least and greatest value, which is
slow and large with a million groups. The packed order is one decimal of the same order. It covers windows of
up to a minute, and ids that are numbers or that this project generated. Other trades have no packed order.
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from k2_ohlcv.domain.intervals import MICROSECOND
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.domain.types import PRICE

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: Windows up to this length have a packed order.
MAX_PACKED_WINDOW = TIMEFRAMES[0].length

#: The columns of the packed order of the opening and of the closing trade, and the number of trades with one.
OPEN_ORDER, CLOSE_ORDER, ORDERED_TRADES = "open_order", "close_order", "ordered_trades"

#: The tie-breaks of one microsecond: ids that are numbers below the limit, then generated ids.
_TIE_LIMIT = 2**36
_TIES = 2 * _TIE_LIMIT
#: A price in 1e-8 is below this. The packed order is (time x _TIES + tie) x 10^10 + price, in decimals.
_PRICE_LIMIT = 10 ** (PRICE.precision - PRICE.scale)
_PRICE_UNITS = 10**PRICE.precision
assert (MAX_PACKED_WINDOW // MICROSECOND) * _TIES < 2**63, "time and tie must fit 63 bits"

_MICROS = "unix_micros(timestamp)"
_NUMBER = "try_cast(trade_id AS BIGINT)"
#: The ordinal of a generated id, `<microseconds>-<ordinal>`. Times since 2001 have 16 digits.
_ORDINAL = "try_cast(substring(trade_id, 18) AS BIGINT)"
# A text such as '007', '+5' or ' 7' is also cast to a number. Such ids are ordered as text, so they have no
# packed order. A number has at most 11 digits here and a generated id has more, so numbers come first.
_TIE_OF_ID = (
    f"CASE WHEN {_NUMBER} BETWEEN 0L AND {_TIE_LIMIT - 1}L AND CAST({_NUMBER} AS STRING) = trade_id "
    f"THEN {_NUMBER} "
    f"WHEN {_ORDINAL} BETWEEN 0L AND {_TIE_LIMIT - 1}L "
    f"AND concat(CAST({_MICROS} AS STRING), '-', CAST({_ORDINAL} AS STRING)) = trade_id "
    f"THEN {_ORDINAL} + {_TIE_LIMIT}L END"
)


def exact_order(*, has_ids: bool) -> "Column":
    """The exact order of trades, as a struct.

    Numeric ids compare as numbers. Without ids, and for external trades that repeat an id, the price breaks
    the tie. Trades that are equal in all of this give the same open and close in any order.
    """
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    ids = (F.length("trade_id"), F.col("trade_id")) if has_ids else ()
    return F.struct(F.col("timestamp"), *ids, F.col("price"))


def add_packed_order(trades: "DataFrame", timeframe: Timeframe, *, has_ids: bool) -> "DataFrame":
    """Add the packed order of trades in windows of a timeframe, null for trades without one."""
    from pyspark.sql import functions as F  # noqa: N812

    assert timeframe.length <= MAX_PACKED_WINDOW
    tie = _TIE_OF_ID if has_ids else "0L"
    order = f"pmod({_MICROS}, {timeframe.micros}L) * {_TIES}L + ({tie})"
    # Types of exactly the needed digits, so that no engine reduces the scale of the sum.
    shifted = (
        f"CAST(CAST({order} AS DECIMAL(19, 0)) * CAST({_PRICE_LIMIT} AS DECIMAL(11, 0)) AS DECIMAL(29, 0))"
    )
    return trades.withColumn(OPEN_ORDER, F.expr(f"CAST({shifted} + price AS DECIMAL(38, {PRICE.scale}))"))


def unpack_prices(windows: pa.Table) -> pa.Table:
    """Replace the packed orders by the open and close prices. Every trade has a packed order."""
    for order, price in ((OPEN_ORDER, "open_price"), (CLOSE_ORDER, "close_price")):
        windows = windows.append_column(price, _price_of(windows[order].combine_chunks()))
    return windows.drop_columns([OPEN_ORDER, CLOSE_ORDER, ORDERED_TRADES])


def _price_of(packed: pa.Array) -> pa.Array:
    """The prices in packed orders: the remainders of a division by `_PRICE_UNITS`, in units of 1e-8."""
    remainder = pl.col("packed").to_physical() % pl.lit(_PRICE_UNITS, pl.Int128)
    units = pl.DataFrame({"packed": packed}).select(remainder.cast(pl.Int64)).to_series().to_numpy()
    bits = np.stack([units, units >> 63], axis=1)  # little-endian two's complement of 128 bits
    return pa.Array.from_buffers(pa.decimal128(*PRICE), len(units), [None, pa.py_buffer(bits.tobytes())])
