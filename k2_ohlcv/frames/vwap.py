"""The volume-weighted average price of windows, exact. The windows themselves are in `candles`."""

import polars as pl
import pyarrow as pa

from k2_ohlcv.domain.candle import SCALE
from k2_ohlcv.domain.types import NOTIONAL, PRICE, VOLUME
from k2_ohlcv.frames.decimal_units import decimals_from_units, units_from_decimals

# A notional divided by a volume, both in their units, is a price in its unit.
assert NOTIONAL.scale - VOLUME.scale == PRICE.scale == SCALE


def compute_vwap(notional: pa.ChunkedArray, volume: pa.ChunkedArray) -> pa.Array:
    """Divide notional by volume, and round half-even to 8 places.

    Args:
        notional: the exact sum of price x quantity of each window. Not null.
        volume: the volume of each window, above zero.
    """
    whole = pl.col("notional") // pl.col("volume")
    twice = 2 * (pl.col("notional") - pl.col("whole") * pl.col("volume"))
    is_odd = pl.col("whole") % 2 == 1
    is_rounded_up = (twice > pl.col("volume")) | ((twice == pl.col("volume")) & is_odd)
    columns = {"notional": units_from_decimals(notional), "volume": units_from_decimals(volume)}
    quotients = pl.DataFrame(columns).with_columns(whole.alias("whole"))
    vwap = quotients.select(pl.col("whole") + is_rounded_up.cast(pl.Int128)).to_series()
    return decimals_from_units(vwap, PRICE)
