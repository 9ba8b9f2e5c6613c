"""Foreign prices and quantities as ours, against Python's own decimals."""

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

#: Where conversions go wrong: where doubles get coarser than 10^-8, and where a price is too large.
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


def fits(value: Decimal | None, target: DecimalType) -> Decimal | None:
    """The value, if it is positive and one of the target's."""
    if (
        value is None
        or not value.is_finite()
        or value <= 0
        or value >= 10 ** (target.precision - target.scale)
    ):
        return None
    return value if (Fraction(value) * 10**target.scale).denominator == 1 else None


def converted(
    engine: Engine, values: Sequence[object], kind: pa.DataType, source: IcebergType
) -> Iterator[tuple[DecimalType, Any, Decimal | None]]:
    """For each value, as price and as quantity: what it became."""
    frame = engine.spark.createDataFrame(pa.table({"raw_x": pa.array(values, kind)}))
    for target in (PRICE, QUANTITY):
        found = add_exact_decimal(frame, "x", source, target).select("raw_x", "x").toArrow()
        assert len(found) == len(values)
        for value, got in zip(found["raw_x"].to_pylist(), found["x"].to_pylist(), strict=True):
            yield target, value, got


def check_doubles(engine: Engine, values: Sequence[float]) -> None:
    for target, value, got in converted(engine, values, pa.float64(), DoubleType()):
        assert got == fits(Decimal(repr(value)), target), (value, target)


def of_bits(bits: int) -> float:
    value: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return value


def neighbours() -> st.SearchStrategy[float]:
    near = st.tuples(st.sampled_from(EDGES), st.integers(-40, 40))
    return near.map(lambda at: of_bits(struct.unpack("<Q", struct.pack("<d", at[0]))[0] + at[1]))


def doubles() -> st.SearchStrategy[float]:
    """Any double; those that people mean by up to eight places, of every size; and the edges' neighbours."""
    places = st.tuples(st.integers(1, 10**19), st.integers(0, 8)).map(
        lambda n: float(Decimal(n[0]).scaleb(-n[1]))
    )
    sized = (
        st.integers(0, 19)
        .flatmap(lambda d: st.integers(1, 10**d))
        .map(lambda n: float(Decimal(n).scaleb(-8)))
    )
    return st.one_of(st.floats(), st.floats(1e-9, 1e11), places, sized, neighbours())


@settings(max_examples=30)
@given(st.lists(doubles(), min_size=1, max_size=300))
@example(PITFALLS + EDGES)
def test_sail_reads_doubles_by_their_shortest_text(sail: EngineLake, values: list[float]) -> None:
    check_doubles(sail.engine, values)


def many(count: int) -> list[float]:
    draw = random.Random(7)
    made = [draw.randrange(1, 10 ** draw.randint(1, 19)) for _ in range(count)]
    exact = [float(Decimal(n).scaleb(-8)) for n in made]
    return [*exact, *(draw.uniform(0, 2.0 ** draw.randint(-20, 40)) for _ in range(count)), *PITFALLS, *EDGES]


def test_no_double_of_many_is_read_otherwise(sail: EngineLake) -> None:
    check_doubles(sail.engine, many(100_000))


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
def test_spark_reads_doubles_by_their_shortest_text(spark: EngineLake) -> None:
    """By arithmetic: the text that Java before 19 makes of a double is not always the shortest."""
    check_doubles(spark.engine, many(20_000))


KINDS = [(9, 2), (18, 8), (10, 9), (38, 18), (38, 38), (38, 0), (20, 8), (19, 8), (12, 10)]


@st.composite
def wide(draw: st.DrawFn) -> tuple[tuple[int, int], list[Decimal | None]]:
    precision, scale = draw(st.sampled_from(KINDS))
    sized = st.integers(0, precision).flatmap(lambda d: st.integers(-(10**d) + 1, 10**d - 1))
    round_ = st.integers(0, precision - 1).map(lambda d: 10**d)
    nines = st.just(10**precision - 1)
    numbers = st.one_of(sized, round_, nines).map(lambda n: Decimal(f"{n}e-{scale}"))
    return (precision, scale), draw(st.lists(st.one_of(numbers, st.none()), min_size=1, max_size=50))


def check_decimals(engine: Engine, kind: tuple[int, int], values: list[Decimal | None]) -> None:
    for target, value, got in converted(engine, values, pa.decimal128(*kind), DecimalType(*kind)):
        positive = got if got is not None and got > 0 else None  # the sign is the reader's check
        assert positive == fits(value, target), (value, target)


@given(wide())
def test_sail_reads_decimals_exactly_or_not_at_all(
    sail: EngineLake, drawn: tuple[tuple[int, int], list[Decimal | None]]
) -> None:
    check_decimals(sail.engine, *drawn)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@pytest.mark.parametrize("kind", KINDS)
def test_spark_reads_decimals_exactly_or_not_at_all(spark: EngineLake, kind: tuple[int, int]) -> None:
    draw, (precision, scale) = random.Random(7), kind
    numbers = [draw.randrange(-(10**d) + 1, 10**d) for d in range(precision + 1) for _ in range(40)]
    numbers += [10**precision - 1, *(10**d for d in range(precision))]
    check_decimals(spark.engine, kind, [None, *(Decimal(f"{n}e-{scale}") for n in numbers)])
