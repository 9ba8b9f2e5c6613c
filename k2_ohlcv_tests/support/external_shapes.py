"""External trades tables of every shape: time units, id and number types, partition specs."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.transforms import HourTransform, IdentityTransform, MonthTransform
from pyiceberg.types import DecimalType, DoubleType, IcebergType, IntegerType, LongType, StringType

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv_tests.support import external_tables
from k2_ohlcv_tests.support.time_forms import TIME_FORMS

#: Time unit, id type, number type, partition spec.
Shape = tuple[str, str, str, str]
PLAIN_SHAPE: Shape = ("zoned", "text", "double", "none")

#: The external column of each trade column. Any text may be a column name.
NAMES = {
    "exchange": "venue",
    "symbol": "pair `x`",
    "trade_id": "seq.no",
    "timestamp": "event time",
    "price": "px",
    "quantity": "timestamp",
}
ID_FORMS: dict[str, tuple[IcebergType | None, Callable[[str], Any]]] = {
    "text": (StringType(), str),
    "long": (LongType(), int),
    "int": (IntegerType(), int),
    "none": (None, str),
}
NUMBER_FORMS: dict[str, tuple[IcebergType, Callable[[Decimal], Any]]] = {
    "double": (DoubleType(), float),
    "wide": (DecimalType(38, 18), lambda value: value),
    "narrow": (DecimalType(19, 8), lambda value: value),
}
SPECS = {
    "none": UNPARTITIONED_PARTITION_SPEC,
    "market": PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "v")),
    "hour": PartitionSpec(PartitionField(4, 1000, HourTransform(), "h")),
    "month": PartitionSpec(
        PartitionField(2, 1000, IdentityTransform(), "s"), PartitionField(4, 1001, MonthTransform(), "m")
    ),
}
#: Iceberg has no hour or month transform of a long.
SHAPES: list[Shape] = [
    shape
    for shape in itertools.product(TIME_FORMS, ID_FORMS, NUMBER_FORMS, SPECS)
    if not (shape[0] in {"micros", "millis"} and shape[3] in {"hour", "month"})
]
#: When `VALID_ROW` was traded.
ROW_TIME = datetime(2024, 5, 17, 12, tzinfo=UTC)
#: A row of a table of `PLAIN_SHAPE`.
VALID_ROW = {
    "venue": "X",
    "pair `x`": "A",
    "seq.no": "7",
    "event time": ROW_TIME,
    "px": 1.5,
    "timestamp": 2.0,
}


def create_external_lake(lake: Lake, trades: Sequence[Trade], shape: Shape = PLAIN_SHAPE) -> Lake:
    """The lake, with these trades in an external table of that shape as its trades table."""
    time_unit, id_form, number_form, spec = shape
    columns: dict[str, tuple[IcebergType | None, Callable[[Any], Any]]] = {
        "exchange": (StringType(), str),
        "symbol": (StringType(), str),
        "trade_id": ID_FORMS[id_form],
        "timestamp": TIME_FORMS[time_unit],
        "price": NUMBER_FORMS[number_form],
        "quantity": NUMBER_FORMS[number_form],
    }
    types = {NAMES[name]: column_type or StringType() for name, (column_type, _) in columns.items()}
    rows = [{NAMES[n]: store(getattr(trade, n)) for n, (_, store) in columns.items()} for trade in trades]
    table = external_tables.create_table(lake, types, rows, spec=SPECS[spec])
    mapping = NAMES | ({"trade_id": ""} if id_form == "none" else {})
    return Lake(lake.catalog, ExternalTradesConfig(table.name(), tuple(mapping.items())))


def trades_as_stored(trades: Sequence[Trade], shape: Shape) -> Sequence[Trade]:
    """The trades that a table of that shape stores.

    Times may be cut to milliseconds and numbers rounded to doubles. Without ids, the order is by values.
    """
    time_unit, id_form, number_form, _ = shape
    if time_unit == "millis":
        trades = [
            replace(t, timestamp=t.timestamp.replace(microsecond=t.timestamp.microsecond // 1000 * 1000))
            for t in trades
        ]
    if number_form == "double":
        trades = [
            replace(t, price=Decimal(repr(float(t.price))), quantity=Decimal(repr(float(t.quantity))))
            for t in trades
        ]
    if id_form == "none":
        ordered = sorted(trades, key=lambda t: (t.timestamp, t.price, t.quantity))
        trades = [replace(t, trade_id=f"{i:09}") for i, t in enumerate(ordered)]
    return trades
