"""Arrow decimals as whole numbers of their smallest unit, and back. Whole numbers compute faster."""

import numpy as np
import polars as pl
import pyarrow as pa

from k2_ohlcv.domain.types import ExactDecimal


def units_from_decimals(values: pa.ChunkedArray) -> pl.Series:
    """Decimals as integers of 128 bits: 1.25 of the scale 8 is 125,000,000."""
    return pl.Series(values).to_physical()


def decimals_from_units(units: pl.Series, kind: ExactDecimal) -> pa.Array:
    """Integers of at most 64 bits as decimals. There are no nulls.

    Raises:
        polars.exceptions.InvalidOperationError: a value has more bits.
    """
    numbers = units.cast(pl.Int64).to_numpy()
    bits = np.stack([numbers, numbers >> 63], axis=1)  # little-endian two's complement of 128 bits
    return pa.Array.from_buffers(pa.decimal128(*kind), len(numbers), [None, pa.py_buffer(bits.tobytes())])
