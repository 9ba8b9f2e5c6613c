"""Exact conversion of external prices and quantities, compared with Python's decimals."""

import math
import random
import struct
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyiceberg.types import DecimalType, DoubleType, IcebergType

from k2_ohlcv.engine.external_values import add_exact_decimal
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.schemas import PRICE, QUANTITY
from k2_ohlcv_tests.support.engine_lake import EngineLake

#: Values at which conversions may fail: doubles get coarser than 10^-8, or a price is too large.
EDGES = [2.0**26, 2.0**25, 2.0**33, 2.0**36, 1e10, 1e11, 1e-8, 1e-9, 0.1, 1.0, 90071992.54740992]
PITFALLS = [
    1e-8,
    0.30000000000000004,
    0.1 + 0.2,
    1e22,
    2e-3,
    5e-324,
    0.0,
    -0.0,
    -1.5,
    math.nan,
    math.inf,
    -math.inf,
]


def exact_value(value: Decimal | None, target: DecimalType) -> Decimal | None:
    """The value if it is positive and the target type can store it exactly, else None."""
    if (
        value is None
        or not value.is_finite()
        or value <= 0
        or value >= 10 ** (target.precision - target.scale)
    ):
        return None
    return value if (Fraction(value) * 10**target.scale).denominator == 1 else None


def convert(
    engine: Engine, values: Sequence[object], kind: pa.DataType, source: IcebergType
) -> Iterator[tuple[DecimalType, Any, Decimal | None]]:
    """Convert each value to a price and to a quantity; yield target type, value and result."""
    frame = engine.spark.createDataFrame(pa.table({"raw_x": pa.array(values, kind)}))
    for target in (PRICE, QUANTITY):
        results = add_exact_decimal(frame, "x", source, target).select("raw_x", "x").toArrow()
        assert len(results) == len(values)
        for value, result in zip(results["raw_x"].to_pylist(), results["x"].to_pylist(), strict=True):
            yield target, value, result


def check_doubles(engine: Engine, values: Sequence[float]) -> None:
    for target, value, result in convert(engine, values, pa.float64(), DoubleType()):
        assert result == exact_value(Decimal(repr(value)), target), (value, target)


def double_from_bits(bits: int) -> float:
    value: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return value


def near_edges() -> st.SearchStrategy[float]:
    offsets = st.tuples(st.sampled_from(EDGES), st.integers(-40, 40))
    return offsets.map(lambda at: double_from_bits(struct.unpack("<Q", struct.pack("<d", at[0]))[0] + at[1]))


def doubles() -> st.SearchStrategy[float]:
    """Any double, doubles of at most eight decimal places and of every size, and doubles near the edges."""
    places = st.tuples(st.integers(1, 10**19), st.integers(0, 8)).map(
        lambda n: float(Decimal(n[0]).scaleb(-n[1]))
    )
    sized = (
        st.integers(0, 19)
        .flatmap(lambda d: st.integers(1, 10**d))
        .map(lambda n: float(Decimal(n).scaleb(-8)))
    )
    return st.one_of(st.floats(), st.floats(1e-9, 1e11), places, sized, near_edges())


@settings(max_examples=30)
@given(st.lists(doubles(), min_size=1, max_size=300))
@example(PITFALLS + EDGES)
def test_sail_reads_doubles_by_their_shortest_text(sail: EngineLake, values: list[float]) -> None:
    check_doubles(sail.engine, values)


def random_doubles(count: int) -> list[float]:
    draw = random.Random(7)
    units = [draw.randrange(1, 10 ** draw.randint(1, 19)) for _ in range(count)]
    exact = [float(Decimal(n).scaleb(-8)) for n in units]
    return [*exact, *(draw.uniform(0, 2.0 ** draw.randint(-20, 40)) for _ in range(count)), *PITFALLS, *EDGES]


def test_sail_reads_many_random_doubles_by_their_shortest_text(sail: EngineLake) -> None:
    check_doubles(sail.engine, random_doubles(100_000))


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
def test_spark_reads_doubles_by_their_shortest_text(spark: EngineLake) -> None:
    """Spark converts by arithmetic. Java before 19 does not always print the shortest text of a double."""
    check_doubles(spark.engine, random_doubles(20_000))


DECIMAL_TYPES = [(9, 2), (18, 8), (10, 9), (38, 18), (38, 38), (38, 0), (20, 8), (19, 8), (12, 10)]


@st.composite
def wide_decimals(draw: st.DrawFn) -> tuple[tuple[int, int], list[Decimal | None]]:
    precision, scale = draw(st.sampled_from(DECIMAL_TYPES))
    sized = st.integers(0, precision).flatmap(lambda d: st.integers(-(10**d) + 1, 10**d - 1))
    round_ = st.integers(0, precision - 1).map(lambda d: 10**d)
    nines = st.just(10**precision - 1)
    numbers = st.one_of(sized, round_, nines).map(lambda n: Decimal(f"{n}e-{scale}"))
    return (precision, scale), draw(st.lists(st.one_of(numbers, st.none()), min_size=1, max_size=50))


def check_decimals(engine: Engine, kind: tuple[int, int], values: list[Decimal | None]) -> None:
    for target, value, result in convert(engine, values, pa.decimal128(*kind), DecimalType(*kind)):
        positive = result if result is not None and result > 0 else None  # the reader checks the sign
        assert positive == exact_value(value, target), (value, target)


@given(wide_decimals())
def test_sail_reads_decimals_exactly_or_not_at_all(
    sail: EngineLake, drawn: tuple[tuple[int, int], list[Decimal | None]]
) -> None:
    check_decimals(sail.engine, *drawn)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@pytest.mark.parametrize("kind", DECIMAL_TYPES)
def test_spark_reads_decimals_exactly_or_not_at_all(spark: EngineLake, kind: tuple[int, int]) -> None:
    draw, (precision, scale) = random.Random(7), kind
    numbers = [draw.randrange(-(10**d) + 1, 10**d) for d in range(precision + 1) for _ in range(40)]
    numbers += [10**precision - 1, *(10**d for d in range(precision))]
    check_decimals(spark.engine, kind, [None, *(Decimal(f"{n}e-{scale}") for n in numbers)])
