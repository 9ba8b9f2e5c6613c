"""The decimal types, and the forms that other packages make of them."""

import polars as pl
import pyarrow as pa
from pyiceberg.types import DecimalType

from k2_ohlcv.domain.types import NOTIONAL, PRICE, QUANTITY, VOLUME, ExactDecimal
from k2_ohlcv.engine.rollup import WINDOW_SCHEMA
from k2_ohlcv.frames.candles import CANDLE_TYPES
from k2_ohlcv.lake.schemas import CANDLE_SPECS, TRADES_SPEC
from k2_ohlcv.sources import decimals


def test_price_times_quantity_is_a_notional() -> None:
    """Spark and Sail give a product p1 + p2 + 1 digits, of which s1 + s2 after the point: exactly 38 here."""
    product = ExactDecimal(PRICE.precision + QUANTITY.precision + 1, PRICE.scale + QUANTITY.scale)
    assert product == NOTIONAL


def test_the_fixed_contract() -> None:
    """The types of the tables do not change: stored tables have them."""
    assert [str(kind) for kind in (PRICE, QUANTITY, VOLUME, NOTIONAL)] == [
        "decimal(18,8)",
        "decimal(19,8)",
        "decimal(29,8)",
        "decimal(38,16)",
    ]


def test_every_room_has_the_same_types() -> None:
    """Landing files, trades, windows, candle frames and candle tables agree."""
    kinds = {"close_price": PRICE, "volume": VOLUME}
    for name, kind in kinds.items():
        assert CANDLE_TYPES[name] == pl.Decimal(*kind)
        assert WINDOW_SCHEMA.field(name).type == pa.decimal128(*kind)
        assert all(c.schema.find_field(name).field_type == DecimalType(*kind) for c in CANDLE_SPECS.values())
    for name, kind, landed in (("price", PRICE, decimals.PRICE), ("quantity", QUANTITY, decimals.QUANTITY)):
        assert TRADES_SPEC.schema.find_field(name).field_type == DecimalType(*kind)
        assert landed.type == pa.decimal128(*kind)
