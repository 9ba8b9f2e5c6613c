"""The values of an external trades table as ours: exact decimals, texts and times, with nothing rounded.

Which rows are read is in `trades_reader`. Doubles are read as the decimals that their shortest texts say.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING

from pyiceberg.types import DecimalType, DoubleType, IcebergType, NestedField

from k2_ohlcv.engine.sql_terms import column_of
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.schemas import PRICE, QUANTITY
from k2_ohlcv.lake.time_column import TimeUnit

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: The column that counts rows which do not fit, in trades and in windows made of them.
INVALID_ROWS = "misfits"
#: Doubles are 2^-26 apart from here on, more than 10^-8: several numbers of eight places read as one.
_MAX_EXACT_DOUBLE = 2.0**26
_TEXT_COLUMNS = ("exchange", "symbol", "trade_id")


def convert_exactly(
    rows: "DataFrame", trades: ExternalTrades, theirs: Mapping[str, NestedField]
) -> "DataFrame":
    """Rows of external trades under our names and in our types, with `INVALID_ROWS` and `raw_<our name>`."""
    from pyspark.sql import functions as F  # noqa: N812

    raw = {name: F.col(f"raw_{name}") for name in theirs}
    frame = rows.select(*(column_of(field).alias(f"raw_{name}") for name, field in theirs.items()))
    for name, target in (("price", PRICE), ("quantity", QUANTITY)):
        frame = add_exact_decimal(frame, name, theirs[name].field_type, target)
    texts = {name: raw[name].cast("string") for name in theirs if name in _TEXT_COLUMNS}
    fits = [F.coalesce(F.col(name) > 0, F.lit(False)) for name in ("price", "quantity")]
    fits += [raw[name].isNotNull() for name in texts if not theirs[name].required]
    return frame.withColumns(
        {
            **texts,
            "timestamp": _timestamp(raw["timestamp"], trades.time_unit),
            INVALID_ROWS: F.when(reduce(lambda a, b: a & b, fits), 0).otherwise(1).cast("long"),
        }
    )


def _timestamp(at: "Column", clock: TimeUnit) -> "Column":
    from pyspark.sql import functions as F  # noqa: N812

    match clock:
        case TimeUnit.ZONED:
            return at
        case TimeUnit.LOCAL:
            return at.cast("timestamp")  # the session is in UTC
        case TimeUnit.MILLIS:
            return F.timestamp_micros(at * F.lit(1000).cast("long"))
        case TimeUnit.MICROS:
            return F.timestamp_micros(at)


def add_exact_decimal(frame: "DataFrame", name: str, kind: IcebergType, target: DecimalType) -> "DataFrame":
    """Add a column: `raw_` itself as decimals of the target, exactly; null where it does not fit.

    Args:
        frame: with the column `raw_<name>`.
        name: the column to add.
        kind: the type of the raw column, a decimal or double. Of doubles only positive ones are taken.
        target: the type of the new one.
    """
    from pyspark.sql import functions as F  # noqa: N812

    raw, sql = F.col(f"raw_{name}"), f"decimal({target.precision},{target.scale})"
    if isinstance(kind, DoubleType):
        return _decimal_from_double(frame, name, target)
    assert isinstance(kind, DecimalType)
    if kind.scale <= target.scale and kind.precision - kind.scale <= target.precision - target.scale:
        return frame.withColumn(name, raw.cast(sql))
    near = raw.try_cast(sql)
    back = near.try_cast(f"decimal({kind.precision},{kind.scale})")
    return frame.withColumn(name, F.when(back == raw, near))


def _decimal_from_double(frame: "DataFrame", name: str, target: DecimalType) -> "DataFrame":
    """Positive doubles as the decimals that their shortest texts say; null where that has more than 8 places.

    By arithmetic, as the texts themselves differ: Sail casts no text with an exponent, and Java before 19
    writes some doubles with more digits than needed. Below 2^26 at most one number of eight places reads as a
    given double: the nearest one, if dividing it out (which rounds correctly) gives the double back. Above,
    it is the nearest number of 15 digits, else of 16, else of 17, that does; the arithmetic is exact there.

    Step by step in columns of their own: one expression would hold each step many times over.
    """
    from pyspark.sql import functions as F  # noqa: N812

    raw = F.col(f"raw_{name}")
    value, whole, rest, unit = (F.col(f"{name}_{part}") for part in ("value", "whole", "rest", "unit"))
    limit = float(10 ** (target.precision - target.scale))
    frame = frame.withColumn(f"{name}_value", F.when((raw > F.lit(0.0)) & (raw < F.lit(limit)), raw))
    frame = frame.withColumn(f"{name}_whole", F.floor(value))
    fewest = F.when((value < F.lit(_MAX_EXACT_DOUBLE)) | (value >= F.lit(1e11)), F.lit(1e8))
    for size, places in ((1e8, 1e7), (1e9, 1e6), (1e10, 1e5), (1e11, 1e4)):
        fewest = fewest.when(value < F.lit(size), F.lit(places))
    frame = frame.withColumns({f"{name}_rest": value - whole.cast("double"), f"{name}_unit": fewest})
    units = [F.least(unit * F.lit(more), F.lit(1e8)) for more in (1.0, 10.0, 100.0)]
    frame = _count_units(frame, name, rest, units)
    found = [F.col(f"{name}_found{i}") for i in range(len(units))]

    def decimal(count: "Column", unit: "Column") -> "Column":
        eighths = (count * (F.lit(1e8) / unit).cast("long")).cast("decimal(10,0)")
        exact = whole.cast("decimal(11,0)") + eighths * F.lit(Decimal("0.00000001"))
        return exact.try_cast(f"decimal({target.precision},{target.scale})")

    fine = (whole.cast("double") * F.lit(1e8) + found[0].cast("double")) / F.lit(1e8) == value
    coarse = [whole.cast("double") + k.cast("double") / u == value for k, u in zip(found, units, strict=True)]
    rules = [
        (value < F.lit(_MAX_EXACT_DOUBLE)) & fine,
        *((value >= F.lit(_MAX_EXACT_DOUBLE)) & rule for rule in coarse),
    ]
    cases = zip(rules, (found[0], *found), (units[0], *units), strict=True)
    return frame.withColumn(name, F.coalesce(*(F.when(rule, decimal(k, u)) for rule, k, u in cases)))


def _count_units(frame: "DataFrame", name: str, rest: "Column", units: list["Column"]) -> "DataFrame":
    """Add how often each unit fits, rounded half to even as texts are made. Sail's rint rounds half up."""
    from pyspark.sql import functions as F  # noqa: N812

    scaled, above = ([F.col(f"{name}_{part}{i}") for i in range(len(units))] for part in ("scaled", "above"))
    frame = frame.withColumns({f"{name}_scaled{i}": rest * unit for i, unit in enumerate(units)})
    frame = frame.withColumns({f"{name}_above{i}": F.floor(s + F.lit(0.5)) for i, s in enumerate(scaled)})
    tie = [(up.cast("double") - s == F.lit(0.5)) & (up % 2 == 1) for up, s in zip(above, scaled, strict=True)]
    return frame.withColumns(
        {f"{name}_found{i}": F.when(tie[i], up - 1).otherwise(up) for i, up in enumerate(above)}
    )
