"""The order of the trades of a window, which decides open and close: by time, then by id, then by price.

The exact order is a struct. An engine keeps an object a group to find its least and greatest value, which is
slow and large with a million groups. The packed order is one decimal of the same order. It covers prices
below 10^9, and ids that are numbers below 9.9 x 10^9 or that this project generated. Other trades have none.
"""

from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from k2_ohlcv.domain.intervals import DAY, MICROSECOND
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.types import PRICE
from k2_ohlcv.frames.decimal_units import decimals_from_units, units_from_decimals

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: The columns of the packed order of the opening and of the closing trade, and the number of trades with one.
OPEN_ORDER, CLOSE_ORDER, ORDERED_TRADES = "open_order", "close_order", "ordered_trades"

#: The price in 1e-8 as a bigint, and its greatest and least value. Comparing decimals takes longer.
PRICE_UNITS, HIGH_UNITS, LOW_UNITS = "price_units", "high_units", "low_units"

#: The packed order is (time x _TIES + tie) x _PRICES + price, with the time in microseconds since the start
#: of the window, and the price in 1e-8. Together they have at most 38 digits in windows of a day.
_TIES, _PRICES = 10**10, 10**17
assert (DAY // MICROSECOND) * _TIES * _PRICES < 10**38
#: Ties below this are ids that are numbers. The others are ordinals of generated ids.
_ORDINALS = 99 * 10**8
#: Microseconds up to this times _TIES fit a bigint, which is faster than a decimal.
_MAX_BIGINT_MICROS = 2**63 // _TIES - 1

_MICROS = "unix_micros(timestamp)"
_NUMBER = "try_cast(trade_id AS BIGINT)"
#: The ordinal of a generated id, `<microseconds>-<ordinal>`. Times since 2001 have 16 digits.
_ORDINAL = "try_cast(substring(trade_id, 18) AS BIGINT)"
# A text such as '007', '+5' or ' 7' is also cast to a number. Such ids are ordered as text, so they have no
# packed order. A number has at most 10 digits here and a generated id has more, so numbers come first.
_TIE_OF_ID = (
    f"CASE WHEN {_NUMBER} BETWEEN 0L AND {_ORDINALS - 1}L AND CAST({_NUMBER} AS STRING) = trade_id "
    f"THEN {_NUMBER} "
    f"WHEN {_ORDINAL} BETWEEN 0L AND {_TIES - _ORDINALS - 1}L "
    f"AND concat(CAST({_MICROS} AS STRING), '-', CAST({_ORDINAL} AS STRING)) = trade_id "
    f"THEN {_ORDINAL} + {_ORDINALS}L END"
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
    """Add price units, and the packed order of trades in windows of a timeframe, null for some trades."""
    from pyspark.sql import functions as F  # noqa: N812

    micros, tie = f"pmod({_MICROS}, {timeframe.micros}L)", _TIE_OF_ID if has_ids else "0L"
    if timeframe.micros <= _MAX_BIGINT_MICROS:
        order = f"CAST({micros} * {_TIES}L + ({tie}) AS DECIMAL(21, 0))"
    else:
        order = f"CAST({micros} AS DECIMAL(11, 0)) * {_whole(_TIES)} + CAST({tie} AS DECIMAL(11, 0))"
    # Whole numbers throughout: an engine that runs out of digits would reduce the scale of a sum.
    units = f"CAST(price * {_whole(10**PRICE.scale)} AS DECIMAL(18, 0))"
    packed = f"CAST(CAST({order} AS DECIMAL(21, 0)) * {_whole(_PRICES)} + {units} AS DECIMAL(38, 0))"
    is_small = f"price < {_PRICES // 10**PRICE.scale}"
    return trades.withColumns(
        {
            OPEN_ORDER: F.expr(f"CASE WHEN {is_small} THEN {packed} END"),
            PRICE_UNITS: F.expr(f"CAST({units} AS BIGINT)"),
        }
    )


def _whole(number: int) -> str:
    """A power of ten as a decimal of its own digits."""
    return f"CAST({number} AS DECIMAL({len(str(number))}, 0))"


def unpack_prices(windows: pa.Table) -> pa.Table:
    """Replace packed orders and price units by the four prices. Every trade has a packed order."""
    for order, price in ((OPEN_ORDER, "open_price"), (CLOSE_ORDER, "close_price")):
        remainders = pl.select(units_from_decimals(windows[order]) % pl.lit(_PRICES, pl.Int128)).to_series()
        windows = windows.append_column(price, decimals_from_units(remainders, PRICE))
    for units, price in ((HIGH_UNITS, "high_price"), (LOW_UNITS, "low_price")):
        windows = windows.append_column(price, decimals_from_units(pl.Series(windows[units]), PRICE))
    return windows.drop_columns([OPEN_ORDER, CLOSE_ORDER, ORDERED_TRADES, HIGH_UNITS, LOW_UNITS])
