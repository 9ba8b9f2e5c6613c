"""Parsing of decimals and times, compared with Python's own."""

import re
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.intervals import DAY, to_micros
from k2_ohlcv.sources.decimals import PRICE, QUANTITY, DecimalType, parse_decimals
from k2_ohlcv.sources.timestamps import parse_micros, parse_times

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = pytest.mark.parametrize("kind", [PRICE, QUANTITY], ids=lambda k: k.name)


def expected(text: str, kind: DecimalType) -> Decimal | None:
    """The exact value by a slow and simple way, or None if the type cannot store it."""
    text = text.strip()
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return None
    value = Decimal(text)
    if value <= 0 or value >= Decimal(10) ** (kind.type.precision - kind.type.scale):
        return None
    return value if (value * 10**8) % 1 == 0 else None


def check(texts: list[str], kind: DecimalType) -> None:
    column = parse_decimals(pa.array(texts, pa.string()), kind)
    for row, text in enumerate(texts):
        wanted = expected(text, kind)
        assert (row in column.errors) == (wanted is None), (text, column.errors.get(row))
        if wanted is not None:
            assert column.values[row].as_py() == wanted, text


numbers = st.one_of(
    st.decimals(min_value=0, max_value=10**12, places=8).map(lambda d: format(d, "f")),
    st.decimals(allow_nan=True, allow_infinity=True).map(str),
    st.integers(-5, 10**13).map(str),
    st.from_regex(r"\A[0-9]{0,13}\.[0-9]{0,10}0{0,30}\Z"),
    st.from_regex(r"\A[+-]?[0-9]{1,3}(\.[0-9]{0,3})?[eE][+-]?[0-9]{1,3}\Z"),
    st.sampled_from(
        ["", " ", ".", "1_0", "0x10", "٣", "nan", "1,5", " 7 ", "1..2", "5.", ".5", "+", "-0", "1e"]
    ),
)


@KINDS
@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.lists(numbers, max_size=12))
def test_each_text_of_a_column_is_exact_or_an_error(kind: DecimalType, texts: list[str]) -> None:
    """Each text becomes exactly its number or an error, whatever else is in the column."""
    check(texts, kind)
    for text in texts:
        check([text], kind)


@KINDS
def test_values_at_the_limits_of_a_type(kind: DecimalType) -> None:
    """The largest and smallest values that fit are exact. Their neighbours are errors."""
    most = Decimal(10) ** (kind.type.precision - kind.type.scale) - Decimal("1e-8")
    check([format(most, "f"), format(most + Decimal("1e-8"), "f")], kind)
    check(
        ["0.00000001", "0.000000010", "0.000000001", "1e-8", "1e-9", "1" + "0" * 60, "0." + "0" * 60 + "1"],
        kind,
    )
    check(["0.1" + "0" * 70, "800.010000000000", "0." + "0" * 50], kind)
    for exponent in range(-60, 61):
        check([f"123e{exponent}"], kind)


def test_a_sliced_column_is_read_from_its_offset() -> None:
    """An Arrow array may be a view into another array."""
    column = parse_decimals(pa.array(["x", "1.5", "2.5", "y"]).slice(1, 2), PRICE)
    assert column.errors == {}
    assert column.values.to_pylist() == [Decimal("1.5"), Decimal("2.5")]


def test_no_value_is_converted_through_a_float() -> None:
    """A number that no double can represent stays exact."""
    text = "9007199254.74099301"
    assert parse_decimals(pa.array([text]), PRICE).values[0].as_py() == Decimal(text)


MOMENT = datetime(2024, 8, 9, 0, 5, 5, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1723161905", MOMENT.replace(microsecond=0)),
        ("1723161905123", MOMENT.replace(microsecond=123000)),
        ("1723161905123456", MOMENT),
        ("1723161905123456789", MOMENT),
        ("1723161905.123456", MOMENT),
        ("1723161905.1234569", MOMENT),
        ("1.723161905e9", MOMENT.replace(microsecond=0)),
        ("2024-08-09T00:05:05.123456Z", MOMENT),
        ("2024-08-09 00:05:05.123456", MOMENT),
        ("2024-08-09T00:05:05.123456789Z", MOMENT),
        ("2024-08-09T02:05:05.123456+02:00", MOMENT),
        ("2024-08-08T18:05:05.123456-0600", MOMENT),
        ("2024-08-09", MOMENT.replace(minute=0, second=0, microsecond=0)),
        (" 1723161905 ", MOMENT.replace(microsecond=0)),
    ],
)
def test_a_time_is_read_in_each_of_its_forms(text: str, moment: datetime) -> None:
    """The moment is the same alone, beside equal forms, and beside texts that are no times."""
    for texts in ([text], [text, text], [text, "x"], [text, "2024-08-09T00:00:00Z"], [text, "1723161905"]):
        column = parse_times(pa.array(texts), NOW)
        assert column.values[0].as_py() == moment, texts
        assert 0 not in column.errors
    assert parse_micros(text) == to_micros(moment)


@pytest.mark.parametrize(
    "text", ["", "x", "nan", "2024-13-01", "2024-08-09T25:00:00", "1,5", "\u0662\u0660\u0662\u0664-01-01"]
)
def test_a_text_that_is_no_time_is_an_error(text: str) -> None:
    """The other rows of the column have no error."""
    column = parse_times(pa.array(["1723161905", text]), NOW)
    assert column.errors == {1: "timestamp is not a time"}


def test_times_that_no_trade_can_have_are_errors() -> None:
    """Times before 2009 or more than a day ahead are errors. The limits themselves are valid."""
    ahead = to_micros(NOW + DAY)
    texts = [
        "1230768000",
        "1230767999",
        str(ahead),
        str(ahead + 1),
        "0",
        "-5",
        "99999999999999999999999",
        "1e99",
    ]
    errors = parse_times(pa.array(texts), NOW).errors
    assert sorted(errors) == [1, 3, 4, 5, 6, 7]
    assert errors[1] == "timestamp is before 2009-01-01"
    assert errors[3] == "timestamp is more than a day ahead"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_parquet_timestamps_of_any_unit_and_zone(unit: str, zone: str | None) -> None:
    """A time without a zone is in UTC. A time with a zone is converted."""
    moment = MOMENT.replace(microsecond=0)
    stored = pa.array([to_micros(moment)]).cast(pa.timestamp("us")).cast(pa.timestamp(unit)).view(pa.int64())
    assert parse_times(stored.view(pa.timestamp(unit, zone)), NOW).values[0].as_py() == moment


def test_numbers_are_read_as_times_by_their_magnitude() -> None:
    """Each row has its own unit. Doubles are read by their shortest text."""
    micros = to_micros(MOMENT)
    column = parse_times(pa.array([micros // 1_000_000, micros // 1_000, micros, micros * 1_000]), NOW)
    assert column.values.to_pylist() == [
        MOMENT.replace(microsecond=0),
        MOMENT.replace(microsecond=123000),
        MOMENT,
        MOMENT,
    ]
    assert parse_times(pa.array([micros / 1e6]), NOW).values[0].as_py() == MOMENT
    assert parse_times(pa.array([None, micros]), NOW).errors == {0: "timestamp is not a time"}


def test_doubles_become_decimals_through_their_shortest_text() -> None:
    """Like Python's repr, Arrow's text of a double is read back as the same double."""
    values = np.random.default_rng(3).uniform(0, 1e5, 500).round(8)
    texts = pa.array(values).cast(pa.string()).to_pylist()
    assert [Decimal(t) for t in texts] == [Decimal(repr(float(v))) for v in values]
