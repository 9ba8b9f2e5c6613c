"""The decimal types, and the forms that other packages derive from them."""

import polars as pl
import pyarrow as pa
from pyiceberg.types import DecimalType

from k2_ohlcv.domain.types import NOTIONAL, PRICE, QUANTITY, VOLUME, ExactDecimal
from k2_ohlcv.frames.candles import CANDLE_TYPES
from k2_ohlcv.frames.windows import WINDOW_SCHEMA
from k2_ohlcv.lake.schemas import CANDLE_SPECS, TRADES_SPEC
from k2_ohlcv.sources import decimals


def test_price_times_quantity_is_a_notional() -> None:
    """In Spark and Sail a product has p1 + p2 + 1 digits, s1 + s2 of them after the point: here 38."""
    product = ExactDecimal(PRICE.precision + QUANTITY.precision + 1, PRICE.scale + QUANTITY.scale)
    assert product == NOTIONAL


def test_the_fixed_contract() -> None:
    """Stored tables have these types, so they do not change."""
    assert [str(kind) for kind in (PRICE, QUANTITY, VOLUME, NOTIONAL)] == [
        "decimal(18,8)",
        "decimal(19,8)",
        "decimal(29,8)",
        "decimal(38,16)",
    ]


def test_every_package_has_the_same_types() -> None:
    """Landing files, trades, windows, candle frames and candle tables agree."""
    types = {"close_price": PRICE, "volume": VOLUME}
    for name, decimal in types.items():
        assert CANDLE_TYPES[name] == pl.Decimal(*decimal)
        assert WINDOW_SCHEMA.field(name).type == pa.decimal128(*decimal)
        assert all(
            c.schema.find_field(name).field_type == DecimalType(*decimal) for c in CANDLE_SPECS.values()
        )
    for name, kind, landing_type in (
        ("price", PRICE, decimals.PRICE),
        ("quantity", QUANTITY, decimals.QUANTITY),
    ):
        assert TRADES_SPEC.schema.find_field(name).field_type == DecimalType(*kind)
        assert landing_type.type == pa.decimal128(*kind)
