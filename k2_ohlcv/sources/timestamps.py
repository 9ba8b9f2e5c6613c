"""Converts columns of times to UTC microseconds, with a reason for each row whose time is not valid.

A whole column is converted in one step if its texts are plain. Texts in another notation are converted row by
row. Both ways give the same result. No value passes through a float, and no value overflows.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Context, Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain import trading_times
from k2_ohlcv.domain.intervals import DAY, to_micros
from k2_ohlcv.sources.columns import Int64s, ParsedColumn
from k2_ohlcv.sources.decimals import (
    MAX_NUMBER_LENGTH,
    NUMBER_PATTERN,
    is_plain_text,
    read_text_bytes,
    read_text_offsets,
)

#: Bitcoin's first block is from January 2009, so no trade is older.
OLDEST_MICROS = to_micros(trading_times.OLDEST_TRADE)

# Stands for every later time: later than any clock, and safe from 64-bit overflow.
_FAR_FUTURE = 2**62
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?", re.ASCII)
_FRACTION = re.compile(r"(\.[0-9]{6})[0-9]+")
#: Microseconds per unit.
_MULTIPLIERS = {"s": 1_000_000, "ms": 1_000, "us": 1}
#: Nanoseconds per microsecond.
_NANOSECONDS = 1_000
# Truncates digits finer than a microsecond. The precision covers the longest accepted number.
_TRUNCATING_CONTEXT = Context(prec=2 * MAX_NUMBER_LENGTH, rounding=ROUND_DOWN)


def parse_times(column: pa.Array, now: datetime) -> ParsedColumn:
    """Convert a column to timestamp[us, UTC], with an error for each row without a valid trade time.

    Args:
        column: text (ISO 8601, or a number since the epoch), integers, floats, dates or timestamps.
        now: the current time. A time more than a day after `now` is an error.
    """
    errors: dict[int, str] = {}
    micros = _parse_micros(column, errors)
    for row in np.flatnonzero(micros < OLDEST_MICROS).tolist():
        errors.setdefault(row, "timestamp is before 2009-01-01")
    for row in np.flatnonzero(micros > to_micros(now + DAY)).tolist():
        errors.setdefault(row, "timestamp is more than a day ahead")
    return ParsedColumn(pa.array(micros).view(pa.timestamp("us", "UTC")), errors)


def _parse_micros(column: pa.Array, errors: dict[int, str]) -> Int64s:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return _to_micros(_fill_nulls(column.view(pa.int64()), errors), kind.unit)
    if pa.types.is_date64(kind):
        return _to_micros(_fill_nulls(column.view(pa.int64()), errors), "ms")
    if pa.types.is_date32(kind):
        days = _fill_nulls(pc.cast(column.view(pa.int32()), pa.int64()), errors)
        return _to_micros(days * 86_400, "s")  # days have 32 bits: seconds fit 64
    if pa.types.is_integer(kind):
        return _scale_numbers(_fill_nulls(_parse_int64s(column), errors))
    texts = pc.cast(column, pa.string())
    for convert in (_parse_whole_numbers, _parse_fractions, _parse_iso_texts):
        micros = convert(texts)
        if micros is not None:
            return micros
    texts = pc.fill_null(texts, "").to_pylist()
    return np.array([_parse_or_error(row, text, errors) for row, text in enumerate(texts)], np.int64)


def _to_micros(values: Int64s, unit: str) -> Int64s:
    """Convert values of a unit to microseconds, truncated like the digits of a text.

    A value that would overflow becomes a time that is not valid for a trade.
    """
    if unit == "ns":
        return values // _NANOSECONDS
    multiplier = _MULTIPLIERS[unit]
    return np.clip(values, 0, _FAR_FUTURE // multiplier) * multiplier


def _parse_int64s(column: pa.Array) -> pa.Array:
    if pa.types.is_uint64(column.type):
        column = pc.min_element_wise(column, pa.scalar(_FAR_FUTURE, pa.uint64()), skip_nulls=False)
    return pc.cast(column, pa.int64())


def _fill_nulls(values: pa.Array, errors: dict[int, str]) -> Int64s:
    for row in np.flatnonzero(pc.is_null(values).to_numpy(zero_copy_only=False)).tolist():
        errors[row] = "timestamp is not a time"
    filled: Int64s = pc.fill_null(values, OLDEST_MICROS).to_numpy(zero_copy_only=False)
    return filled


def _scale_numbers(numbers: Int64s) -> Int64s:
    """Convert numbers to microseconds. The magnitude shows the unit: s, ms, µs or ns."""
    factors: tuple[tuple[int, Callable[[Int64s], Int64s]], ...] = (
        (10**11, lambda n: n * 1_000_000),
        (10**14, lambda n: n * 1_000),
        (10**17, lambda n: n),
    )
    if not len(numbers):
        return numbers
    for limit, convert in factors:  # fast path: the whole column has one unit
        if numbers.max() < limit and (numbers.min() >= limit // 1000 or limit == factors[0][0]):
            return convert(np.maximum(numbers, 0))
    scaled = numbers // 1_000
    for limit, convert in reversed(factors):
        scaled = np.where(numbers < limit, convert(np.clip(numbers, 0, limit)), scaled)
    return scaled


def _parse_whole_numbers(texts: pa.Array) -> Int64s | None:
    if not is_plain_text(texts, point=False) and not _is_nanoseconds(texts):
        return None
    return _scale_numbers(pc.cast(texts, pa.int64()).to_numpy())


def _is_nanoseconds(texts: pa.Array) -> bool:
    """Whether all texts have 19 digits and fit 64 bits. Such numbers are nanoseconds until the year 2262."""
    if texts.null_count or not len(texts):
        return False
    characters, lengths = read_text_bytes(texts), np.diff(read_text_offsets(texts))
    if lengths.min() != 19 or lengths.max() != 19:
        return False
    first = characters[:: lengths[0]]
    return bool(((characters - np.uint8(ord("0"))) < 10).all() and (first <= ord("8")).all())


def _parse_fractions(texts: pa.Array) -> Int64s | None:
    """Convert fractional seconds with at most nine decimals. None if a text has more."""
    if not is_plain_text(texts, point=True):
        return None
    try:
        values = pc.cast(texts, pa.decimal128(38, 9))
    except pa.ArrowInvalid:
        return None
    words = np.frombuffer(values.buffers()[1], np.int64).reshape(-1, 2)[
        values.offset : values.offset + len(values)
    ]
    # Seconds times 10^9 fit the low word until the year 2262. Larger numbers are converted row by row.
    return words[:, 0] // 1_000 if not words[:, 1].any() and (words[:, 0] >= 0).all() else None


def _parse_iso_texts(texts: pa.Array) -> Int64s | None:
    if texts.null_count or not len(texts) or read_text_bytes(texts)[4:5].tobytes() != b"-":
        return None
    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us")):  # a text without a zone is UTC
        try:
            micros: Int64s = pc.cast(pc.cast(texts, kind), pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            continue
        return micros
    return None


def _parse_or_error(row: int, text: str, errors: dict[int, str]) -> int:
    micros = parse_micros(text)
    if micros is None:
        errors[row] = "timestamp is not a time"
        return OLDEST_MICROS
    return micros


def parse_micros(text: str) -> int | None:
    """Convert a text to microseconds since the epoch, truncated. None if the text is not a time."""
    text = text.strip()
    if len(text) > MAX_NUMBER_LENGTH:
        return None
    if NUMBER_PATTERN.fullmatch(text):
        number = Decimal(text)
        if number <= 0 or number.adjusted() > 18:
            return 0 if number <= 0 else _FAR_FUTURE
        shift = next((s for limit, s in ((11, 6), (14, 3), (17, 0)) if number.adjusted() < limit), -3)
        return int(number.scaleb(shift, _TRUNCATING_CONTEXT))
    if not _ISO_DATE.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(r"\1", text))
        return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None
