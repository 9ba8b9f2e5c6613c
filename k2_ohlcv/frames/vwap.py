"""The volume-weighted average price of windows, exact. The windows themselves are in `candles`."""

import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain.candle import SCALE
from k2_ohlcv.domain.types import NOTIONAL, PRICE, VOLUME


def compute_vwap(notional: pa.ChunkedArray, volume: pa.ChunkedArray) -> pa.ChunkedArray:
    """Divide notional by volume, and round half-even to 8 places.

    decimal256 keeps 46 places of the quotient. With these types, a quotient that is not a tie differs from
    a tie within those places. The rounding is therefore exact.

    Args:
        notional: the exact sum of price x quantity of each window.
        volume: the volume of each window, above zero.
    """
    exact_volume = volume.cast(pa.decimal256(*VOLUME))
    exact_notional = notional.cast(pa.decimal256(*NOTIONAL))
    vwap = pc.round(pc.divide(exact_notional, exact_volume), ndigits=SCALE, round_mode="half_to_even")
    return vwap.cast(pa.decimal256(76, SCALE)).cast(pa.decimal128(*PRICE))
