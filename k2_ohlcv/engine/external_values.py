"""Converts the values of an external trades table to exact decimals, texts and times. Nothing is rounded.

A double becomes the decimal of its shortest text. `trades_reader` selects the rows.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING

from pyiceberg.types import DecimalType, DoubleType, IcebergType, NestedField

from k2_ohlcv.engine.sql_terms import column_of
from k2_ohlcv.frames.windows import INVALID_ROWS
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.schemas import PRICE, QUANTITY
from k2_ohlcv.lake.time_column import TimeUnit

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: From here on the distance between doubles is 2^-26, more than 10^-8. Several decimals of eight places then
#: have the same double.
_MAX_EXACT_DOUBLE = 2.0**26
_TEXT_COLUMNS = ("exchange", "symbol", "trade_id")


def convert_exactly(
    rows: "DataFrame", trades: ExternalTrades, fields: Mapping[str, NestedField]
) -> "DataFrame":
    """Convert rows of external trades to the columns and types of this project's trades.

    Args:
        rows: rows of the external table.
        trades: the external table.
        fields: column name of this project -> field of the external table.

    Returns:
        The converted rows, with `INVALID_ROWS` and the original values as `raw_<column>`.
    """
    from pyspark.sql import functions as F  # noqa: N812

    raw = {name: F.col(f"raw_{name}") for name in fields}
    frame = rows.select(*(column_of(field).alias(f"raw_{name}") for name, field in fields.items()))
    for name, target in (("price", PRICE), ("quantity", QUANTITY)):
        frame = add_exact_decimal(frame, name, fields[name].field_type, target)
    texts = {name: raw[name].cast("string") for name in fields if name in _TEXT_COLUMNS}
    is_valid = [F.coalesce(F.col(name) > 0, F.lit(False)) for name in ("price", "quantity")]
    is_valid += [raw[name].isNotNull() for name in texts if not fields[name].required]
    return frame.withColumns(
        {
            **texts,
            "timestamp": _timestamp(raw["timestamp"], trades.time_unit),
            INVALID_ROWS: F.when(reduce(lambda a, b: a & b, is_valid), 0).otherwise(1).cast("long"),
        }
    )


def _timestamp(at: "Column", unit: TimeUnit) -> "Column":
    from pyspark.sql import functions as F  # noqa: N812

    match unit:
        case TimeUnit.ZONED:
            return at
        case TimeUnit.LOCAL:
            return at.cast("timestamp")  # the session is in UTC
        case TimeUnit.MILLIS:
            return F.timestamp_micros(at * F.lit(1000).cast("long"))
        case TimeUnit.MICROS:
            return F.timestamp_micros(at)


def add_exact_decimal(frame: "DataFrame", name: str, kind: IcebergType, target: DecimalType) -> "DataFrame":
    """Add a column with the exact decimals of `raw_<name>`. A value that does not fit becomes null.

    Args:
        frame: has the column `raw_<name>`.
        name: the column to add.
        kind: the type of the raw column, a decimal or double. Only positive doubles are converted.
        target: the type of the new column.
    """
    from pyspark.sql import functions as F  # noqa: N812

    raw, sql = F.col(f"raw_{name}"), f"decimal({target.precision},{target.scale})"
    if isinstance(kind, DoubleType):
        return _decimal_from_double(frame, name, target)
    assert isinstance(kind, DecimalType)
    if kind.scale <= target.scale and kind.precision - kind.scale <= target.precision - target.scale:
        return frame.withColumn(name, raw.cast(sql))
    rounded = raw.try_cast(sql)
    back = rounded.try_cast(f"decimal({kind.precision},{kind.scale})")
    return frame.withColumn(name, F.when(back == raw, rounded))


def _decimal_from_double(frame: "DataFrame", name: str, target: DecimalType) -> "DataFrame":
    """Convert positive doubles to the decimals of their shortest texts. More than 8 places become null.

    The conversion is arithmetic, because the engines' texts differ. Sail casts no text with an exponent. Java
    before 19 writes some doubles with more digits than needed. Each step is a column, because a single
    expression would repeat each step many times.

    Below 2^26, at most one decimal of eight places has a given double: the nearest one. The division back
    rounds correctly, and so proves the decimal. Above, the decimal is the nearest one of 15 digits that gives
    the double back, else of 16, else of 17. The arithmetic is exact for these numbers.
    """
    from pyspark.sql import functions as F  # noqa: N812

    raw = F.col(f"raw_{name}")
    value, whole, rest, unit = (F.col(f"{name}_{part}") for part in ("value", "whole", "rest", "unit"))
    limit = float(10 ** (target.precision - target.scale))
    frame = frame.withColumn(f"{name}_value", F.when((raw > F.lit(0.0)) & (raw < F.lit(limit)), raw))
    frame = frame.withColumn(f"{name}_whole", F.floor(value))
    coarsest = F.when((value < F.lit(_MAX_EXACT_DOUBLE)) | (value >= F.lit(1e11)), F.lit(1e8))
    for size, places in ((1e8, 1e7), (1e9, 1e6), (1e10, 1e5), (1e11, 1e4)):
        coarsest = coarsest.when(value < F.lit(size), F.lit(places))
    frame = frame.withColumns({f"{name}_rest": value - whole.cast("double"), f"{name}_unit": coarsest})
    units = [F.least(unit * F.lit(more), F.lit(1e8)) for more in (1.0, 10.0, 100.0)]
    frame = _count_units(frame, name, rest, units)
    counts = [F.col(f"{name}_count{i}") for i in range(len(units))]

    def decimal(count: "Column", unit: "Column") -> "Column":
        eighths = (count * (F.lit(1e8) / unit).cast("long")).cast("decimal(10,0)")
        exact = whole.cast("decimal(11,0)") + eighths * F.lit(Decimal("0.00000001"))
        return exact.try_cast(f"decimal({target.precision},{target.scale})")

    fine = (whole.cast("double") * F.lit(1e8) + counts[0].cast("double")) / F.lit(1e8) == value
    coarse = [
        whole.cast("double") + k.cast("double") / u == value for k, u in zip(counts, units, strict=True)
    ]
    is_small = value < F.lit(_MAX_EXACT_DOUBLE)
    rules = [is_small & fine, *((value >= F.lit(_MAX_EXACT_DOUBLE)) & rule for rule in coarse)]
    cases = zip(rules, (counts[0], *counts), (units[0], *units), strict=True)
    return frame.withColumn(name, F.coalesce(*(F.when(rule, decimal(k, u)) for rule, k, u in cases)))


def _count_units(frame: "DataFrame", name: str, rest: "Column", units: list["Column"]) -> "DataFrame":
    """Add the number of units in the rest, rounded half to even like texts. Sail's rint rounds half up."""
    from pyspark.sql import functions as F  # noqa: N812

    scaled, above = ([F.col(f"{name}_{part}{i}") for i in range(len(units))] for part in ("scaled", "above"))
    frame = frame.withColumns({f"{name}_scaled{i}": rest * unit for i, unit in enumerate(units)})
    frame = frame.withColumns({f"{name}_above{i}": F.floor(s + F.lit(0.5)) for i, s in enumerate(scaled)})
    tie = [(up.cast("double") - s == F.lit(0.5)) & (up % 2 == 1) for up, s in zip(above, scaled, strict=True)]
    return frame.withColumns(
        {f"{name}_count{i}": F.when(tie[i], up - 1).otherwise(up) for i, up in enumerate(above)}
    )
