"""Decimals as whole numbers of their smallest unit, and back."""

from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_ohlcv.domain.types import NOTIONAL, PRICE
from k2_ohlcv.frames.decimal_units import decimals_from_units, units_from_decimals


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1)))
def test_decimals_come_back(units: list[int]) -> None:
    """For every price, negative ones too."""
    decimals = decimals_from_units(pl.Series(units, dtype=pl.Int128), PRICE)
    assert decimals.to_pylist() == [Decimal(unit).scaleb(-8) for unit in units]
    assert units_from_decimals(pa.chunked_array([decimals])).to_list() == units


def test_a_notional_has_more_than_64_bits() -> None:
    """Its units are exact, but cannot become a decimal of 64 bits."""
    largest = pa.chunked_array([pa.array([Decimal("9" * 22 + "." + "9" * 16)], pa.decimal128(*NOTIONAL))])
    units = units_from_decimals(largest)
    assert units.to_list() == [10**38 - 1]
    with pytest.raises(pl.exceptions.InvalidOperationError):
        decimals_from_units(units, PRICE)
