"""Converts columns of text to exact decimals, with a reason for each row that cannot be converted.

Arrow converts a whole column if its text is plain. Python's Decimal converts single rows in another notation
(`1e-8`, spaces, a sign). No value passes through a float. Files and formats do not belong here.
Times are in `timestamps`, ids and markets in `name_columns`.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain import types
from k2_ohlcv.sources.columns import ParsedColumn

#: In characters. Longer text is rejected, because an exact conversion would take much time and memory.
MAX_NUMBER_LENGTH = 200
NUMBER_PATTERN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?", re.ASCII)

# Arrow's parser silently overflows for numbers of more than 38 digits. Longer text is converted row by row.
_MAX_ARROW_DIGITS = 30
_PLAIN_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,8}0*)?$"


@dataclass(frozen=True)
class DecimalType:
    """A decimal column: the name for error reasons, and the Arrow type."""

    name: str
    type: pa.Decimal128Type


PRICE = DecimalType("price", pa.decimal128(*types.PRICE))
QUANTITY = DecimalType("quantity", pa.decimal128(*types.QUANTITY))


def read_text_bytes(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """Read the bytes of all texts of a column, concatenated. Nulls have no bytes."""
    offsets = read_text_offsets(texts)
    data = texts.buffers()[2]
    if data is None or not len(texts):
        return np.empty(0, np.uint8)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]


def read_text_offsets(texts: pa.Array) -> npt.NDArray[np.int32]:
    """Read the start offset of each text in the buffer, and the end of the last text."""
    if not len(texts):
        return np.zeros(1, np.int32)
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]


def is_plain_text(texts: pa.Array, *, point: bool) -> bool:
    """Whether every text is short and has only ASCII digits, and points if `point`."""
    if texts.null_count or not len(texts):
        return False
    characters, lengths = read_text_bytes(texts), np.diff(read_text_offsets(texts))
    if lengths.max() > (_MAX_ARROW_DIGITS if point else 18) or lengths.min() < 1:
        return False
    digits = (characters - np.uint8(ord("0"))) < 10
    if point:
        digits |= characters == ord(".")
    return bool(digits.all())


def parse_decimals(texts: pa.Array, kind: DecimalType) -> ParsedColumn:
    """Convert texts to decimals, with an error for each text that is not a positive number that fits."""
    errors: dict[int, str] = {}
    values = None
    if is_plain_text(texts, point=True):
        with suppress(pa.ArrowInvalid):  # some row does not fit: convert row by row
            values = pc.cast(texts, kind.type)
    if values is None:
        values = _parse_decimals_by_row(texts, kind, errors)
    reason = f"{kind.name} is not positive"
    not_positive = pc.less_equal(values, pa.scalar(Decimal(0), kind.type))
    for row in np.flatnonzero(not_positive.to_numpy(zero_copy_only=False)).tolist():
        errors.setdefault(row, reason)
    return ParsedColumn(values, errors)


def _parse_decimals_by_row(texts: pa.Array, kind: DecimalType, errors: dict[int, str]) -> pa.Array:
    texts = pc.fill_null(texts, "")
    whole_digits = kind.type.precision - kind.type.scale
    plain = pc.and_(
        pc.match_substring_regex(texts, _PLAIN_PATTERN.replace("15", str(whole_digits))),
        pc.less_equal(pc.binary_length(texts), _MAX_ARROW_DIGITS),
    )
    values = pc.cast(pc.if_else(plain, texts, "0"), kind.type)
    other_rows = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    if not len(other_rows):
        return values
    replaced: list[Decimal] = []
    reasons: dict[str, str] = {}  # millions of rows may share one reason: store its text once
    for row, text in zip(other_rows, texts.take(pa.array(other_rows)).to_pylist(), strict=True):
        value = parse_exact_decimal(text, kind)
        if isinstance(value, str):
            errors[int(row)] = reasons.setdefault(value, value)
        replaced.append(Decimal(1) if isinstance(value, str) else value)
    return pc.replace_with_mask(values, pc.invert(plain), pa.array(replaced, kind.type))


def parse_exact_decimal(text: str, kind: DecimalType) -> Decimal | str:
    """Convert a text to a decimal. The result is a reason (str) if the number cannot be stored exactly."""
    text = text.strip()
    if len(text) > MAX_NUMBER_LENGTH:
        return f"{kind.name} is longer than {MAX_NUMBER_LENGTH:,} characters"
    if not NUMBER_PATTERN.fullmatch(text):
        return f"{kind.name} is not a number"
    value = Decimal(text)
    if value <= 0:
        return f"{kind.name} is not positive"
    # Compare positions of digits: arithmetic on a huge exponent would round or fail.
    if value.adjusted() >= kind.type.precision - kind.type.scale:
        return f"{kind.name} does not fit decimal({kind.type.precision},{kind.type.scale})"
    digits, exponent = value.as_tuple().digits, int(value.as_tuple().exponent)
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    if exponent + zeros < -kind.type.scale:
        return f"{kind.name} has more than {kind.type.scale} decimals"
    # Remove trailing zeros, because Arrow supports at most 38 digits.
    return Decimal((0, digits[: len(digits) - zeros], exponent + zeros))
