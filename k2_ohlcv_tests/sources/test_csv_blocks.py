"""A row is read the same way alone, among other rows, in a block, and line by line."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.intervals import DAY, to_micros
from k2_ohlcv.sources import csv_blocks
from k2_ohlcv.sources.columns import ParsedColumn
from k2_ohlcv.sources.decimals import PRICE, QUANTITY, parse_decimals
from k2_ohlcv.sources.formats.layout import Layout
from k2_ohlcv.sources.line_blocks import LineBlock
from k2_ohlcv.sources.market import Market
from k2_ohlcv.sources.name_columns import parse_names
from k2_ohlcv.sources.rows import RawRows, parse_rows
from k2_ohlcv.sources.timestamps import OLDEST_MICROS, parse_micros, parse_times

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEEDED = settings(derandomize=True, max_examples=300, deadline=None)
SPACES = ["", " ", "\t", "\u00a0", "\u2003", "\u2028", "\x85", "\x0b", "\x1c", "\ufeff", "\u200b"]
spaces = st.sampled_from(SPACES)


def with_spaces(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Texts, often plain, else with spaces of any kind around them."""
    return texts | st.builds(lambda a, text, b: a + text + b, spaces, texts, spaces)


def value_or_error(column: ParsedColumn, row: int) -> Any:
    return column.errors.get(row) or column.values[row].as_py()


def check_alone(parse: Any, values: list[Any], kind: pa.DataType) -> None:
    """Each value gives the same result alone and among the other values."""
    together = parse(pa.array(values, kind))
    for row, value in enumerate(values):
        alone = value_or_error(parse(pa.array([value], kind)), 0)
        assert value_or_error(together, row) == alone, (values, value)


plain_numbers = st.integers(0, 10**12).map(str) | st.from_regex(r"\A[0-9]{1,9}\.[0-9]{1,8}\Z")
odd_numbers = st.one_of(
    st.from_regex(r"\A[+-]?[0-9]{0,32}\.?[0-9]{0,12}0{0,25}\Z"),
    st.from_regex(r"\A[0-9]{1,3}(\.[0-9]{0,3})?[eE][+-]?[0-9]{1,3}\Z"),
    st.sampled_from(["", ".", "5.", ".5", "-1", "1..2", "nan", "٣", "1_0", "1,5", "0" * 40 + "1"]),
)


@SEEDED
@given(st.lists(plain_numbers, max_size=4), st.lists(with_spaces(plain_numbers | odd_numbers), max_size=4))
def test_a_number_is_parsed_alike_beside_any_others(plain: list[str], odd: list[str]) -> None:
    for values in (plain, odd, plain + odd):
        for kind in (PRICE, QUANTITY):
            check_alone(lambda column, kind=kind: parse_decimals(column, kind), values, pa.string())


names = st.text(st.sampled_from("abZ09-_/:. \u00a0\t\x1bé日\ufffd"), max_size=6)


@SEEDED
@given(st.lists(with_spaces(names) | st.integers(0, 10**20).map(str), max_size=5))
def test_a_name_is_parsed_alike_beside_any_others(values: list[str]) -> None:
    """A no-break space is trimmed, whether or not another value has a plain space."""
    check_alone(lambda column: parse_names("trade_id", column), values, pa.string())


def test_a_no_break_space_is_trimmed_beside_any_other_name() -> None:
    for beside in ("b", " b", "é"):
        values = parse_names("trade_id", pa.array(["\u00a0a\u00a0", beside])).values
        assert values[0].as_py() == "a"


epochs = st.integers(0, 2**63 - 1) | st.sampled_from(
    [
        n
        for edge in (10**9, 10**11, 10**14, 10**17, 10**18, 2**63 - 1, OLDEST_MICROS)
        for n in (edge - 1, edge)
    ]
)
moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001
clocks = st.builds(
    lambda moment, form, zone, digits: moment.strftime(form) + digits + zone,
    moments,
    st.sampled_from(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d", "%Y-%m-%dT%H"]),
    st.sampled_from(["", "Z", "+02:00", "-0530", "+02", "+24:00", "+23:59", " UTC", "z", "+2:00"]),
    st.sampled_from(["", ".1", ".12", ".123", ".1234", ".123456", ".1234567", ".123456789", ".", ",5"]),
)
time_texts = st.one_of(
    epochs.map(str),
    st.from_regex(r"\A(17|12)[0-9]{8}(\.[0-9]{0,12})?\Z"),
    st.from_regex(r"\A0{0,12}(17|12)[0-9]{8,17}\Z"),
    clocks,
    odd_numbers,
    st.sampled_from(
        ["2024-02-30", "2024-08-09T24:00:00Z", "2024-08-09T23:59:60Z", "0001-01-01", "9999-12-31"]
    ),
)


def parse_times_now(column: pa.Array) -> ParsedColumn:
    return parse_times(column, NOW)


@SEEDED
@given(st.lists(with_spaces(time_texts), min_size=1, max_size=5))
def test_a_time_is_parsed_alike_beside_any_others(values: list[str]) -> None:
    check_alone(parse_times_now, values, pa.string())


@pytest.mark.parametrize("strategy", [epochs.map(str), clocks], ids=["numbers", "clocks"])
def test_a_column_of_times_is_parsed_as_its_rows(strategy: st.SearchStrategy[str]) -> None:
    """The conversion of a whole column is compared with the conversion of single texts."""

    @SEEDED
    @given(st.lists(strategy, min_size=1, max_size=3))
    def check(values: list[str]) -> None:
        column = parse_times_now(pa.array(values))
        for row, text in enumerate(values):
            micros = parse_micros(text)
            is_possible = micros is not None and OLDEST_MICROS <= micros <= to_micros(NOW + DAY)
            assert (row not in column.errors) == is_possible, (values, text, column.errors)
            if is_possible:
                assert to_micros(column.values[row].as_py()) == micros, (values, text)

    check()


@SEEDED
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | epochs | st.none(), min_size=1, max_size=5))
def test_every_time_type_of_parquet_is_exact_or_an_error(values: list[int | None]) -> None:
    """No unit overflows. A value that does not fit is an error."""
    units = {"s": 10**6, "ms": 10**3, "us": 1}
    ahead = to_micros(NOW + DAY)
    for unit in ("s", "ms", "us", "ns"):
        column = parse_times_now(pa.array(values, pa.int64()).view(pa.timestamp(unit, "UTC")))
        for row, value in enumerate(values):
            exact = None if value is None else value * units[unit] if unit in units else value // 1000
            if exact is not None and OLDEST_MICROS <= exact <= ahead:
                assert to_micros(column.values[row].as_py()) == exact
                assert row not in column.errors
            else:
                assert row in column.errors, (unit, value)
    check_alone(parse_times_now, values, pa.int64())
    unsigned = [None if v is None else v % 2**64 for v in values]
    check_alone(parse_times_now, unsigned, pa.uint64())
    assert all(
        (row in parse_times_now(pa.array(unsigned, pa.uint64())).errors) or value < 2**63
        for row, value in enumerate(unsigned)
        if value is not None
    )
    days = [None if v is None else v % 2**32 - 2**31 for v in values]
    column = parse_times_now(pa.array(days, pa.int32()).view(pa.date32()))
    for row, day in enumerate(days):
        is_possible = day is not None and OLDEST_MICROS <= day * 86_400_000_000 <= ahead
        assert (row not in column.errors) == is_possible, day


def test_a_time_of_parquet_does_not_overflow_into_2024() -> None:
    """As microseconds, cut to 64 bits, these milliseconds would be in 2024."""
    wrapped = (1723161255_000_000 + 2**64) // 1000
    assert (np.array([wrapped]) * 1000 // 10**6).tolist() == [1723161254], "the value after an overflow"
    column = parse_times_now(pa.array([wrapped]).view(pa.timestamp("ms")))
    assert column.errors == {0: "timestamp is more than a day ahead"}
    assert parse_times_now(pa.array([str(wrapped * 10**6)])).errors


LAYOUT = Layout("t", "table", "", {"timestamp": 0, "price": 1, "quantity": 2, "trade_id": 3}, width=4)
cells = st.sampled_from(
    ["1723161255", "1", "a", '"a"', '"', '""', '"a,b"', '"a""b"', "", " ", "\u00a0x", "é"]
)
specials = ["\r", "\r\n", "\n", '"', ",", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\ufeff", " ", "\t"]
rows = st.lists(cells, min_size=3, max_size=5).map(",".join)
texts = st.lists(st.one_of(rows, rows, rows, st.sampled_from(specials)), max_size=8)


def parse_batch(parsed: RawRows) -> Any:
    batch = parse_rows(parsed, Market("E", "S"), NOW)
    return batch.trades.to_pylist(), batch.rejected.to_pylist()


@settings(SEEDED, max_examples=600)
@given(texts, st.sampled_from(["\n", "\r\n", ""]), st.binary(max_size=2))
def test_a_block_is_parsed_as_its_lines(parts: list[str], end: str, junk: bytes) -> None:
    """Rows and line numbers are the same with any returns, quotes and separators."""
    block = LineBlock("".join(part + end for part in parts).encode() + junk, 1)
    assert parse_batch(csv_blocks.parse_block(block, LAYOUT)) == parse_batch(
        csv_blocks._parse_by_line(block, LAYOUT)
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_plain_and_quoted_text_is_not_parsed_line_by_line(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Usual files are parsed as whole blocks, which is faster."""
    monkeypatch.delattr(csv_blocks, "_parse_by_line")
    for row in ("1723161255,1,1,a", '"1723161255","1","1","a,b"', '1723161255,1,"1",""'):
        parsed = csv_blocks.parse_block(LineBlock(f"{row}{end}{row}{end}".encode(), 7), LAYOUT)
        assert parsed.lines.tolist() == [7, 8]


def test_a_lone_return_and_a_quote_over_two_lines_do_not_cancel_out() -> None:
    """One adds a row and the other removes one, so the number of rows alone shows no error."""
    text = '1723161255,1,1,a\r1723161256,2,2,b\n1723161257,3,3,"c\n1723161258,4,4,d"\n1723161259,5,5,e\n'
    trades, rejected = parse_batch(csv_blocks.parse_block(LineBlock(text.encode(), 1), LAYOUT))
    assert [(row["line"], row["trade_id"]) for row in trades] == [(4, "e")]
    assert [row["line"] for row in rejected] == [1, 2, 3]
