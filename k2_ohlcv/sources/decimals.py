"""Columns of a dump to exact decimals, each with the rows that cannot be one.

Whole columns are converted at once where their text is plain; a row that is written in some other way
(`1e-8`, spaces, a sign) is read alone through Python's Decimal. No value ever passes a float.
Nothing here knows of files or formats. Times are in `timestamps`, ids and markets in `names`.
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

#: In characters. Longer text is no number: judging it exactly would take time and memory for nothing.
MAX_NUMBER_LENGTH = 200
NUMBER_PATTERN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?", re.ASCII)

# Arrow's parser silently wraps numbers of more than 38 digits: longer text goes row by row.
_MAX_ARROW_DIGITS = 30
_PLAIN_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,8}0*)?$"


@dataclass(frozen=True)
class DecimalType:
    """What a decimal column must be: its name in reasons, and its type."""

    name: str
    type: pa.Decimal128Type


PRICE = DecimalType("price", pa.decimal128(*types.PRICE))
QUANTITY = DecimalType("quantity", pa.decimal128(*types.QUANTITY))


def read_text_bytes(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """The characters of a string column, one after another (nulls have none)."""
    offsets = read_text_offsets(texts)
    data = texts.buffers()[2]
    if data is None or not len(texts):
        return np.empty(0, np.uint8)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]


def read_text_offsets(texts: pa.Array) -> npt.NDArray[np.int32]:
    """Where each text begins in its buffer, and where the last ends."""
    if not len(texts):
        return np.zeros(1, np.int32)
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]


def is_plain_text(texts: pa.Array, *, point: bool) -> bool:
    """Whether every text is short and of ASCII digits only (and points, where those are allowed)."""
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
    """Decimal texts to a decimal column; faults where one is not a positive number that fits exactly."""
    faults: dict[int, str] = {}
    values = None
    if is_plain_text(texts, point=True):
        with suppress(pa.ArrowInvalid):  # some row does not fit: find out which
            values = pc.cast(texts, kind.type)
    if values is None:
        values = _parse_decimals_by_row(texts, kind, faults)
    reason = f"{kind.name} is not positive"
    not_positive = pc.less_equal(values, pa.scalar(Decimal(0), kind.type))
    for row in np.flatnonzero(not_positive.to_numpy(zero_copy_only=False)).tolist():
        faults.setdefault(row, reason)
    return ParsedColumn(values, faults)


def _parse_decimals_by_row(texts: pa.Array, kind: DecimalType, faults: dict[int, str]) -> pa.Array:
    texts = pc.fill_null(texts, "")
    whole_digits = kind.type.precision - kind.type.scale
    plain = pc.and_(
        pc.match_substring_regex(texts, _PLAIN_PATTERN.replace("15", str(whole_digits))),
        pc.less_equal(pc.binary_length(texts), _MAX_ARROW_DIGITS),
    )
    values = pc.cast(pc.if_else(plain, texts, "0"), kind.type)
    odd = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    if not len(odd):
        return values
    replaced: list[Decimal] = []
    reasons: dict[str, str] = {}  # one text for all rows of a reason, as there may be very many
    for row, text in zip(odd, texts.take(pa.array(odd)).to_pylist(), strict=True):
        value = parse_exact_decimal(text, kind)
        if isinstance(value, str):
            faults[int(row)] = reasons.setdefault(value, value)
        replaced.append(Decimal(1) if isinstance(value, str) else value)
    return pc.replace_with_mask(values, pc.invert(plain), pa.array(replaced, kind.type))


def parse_exact_decimal(text: str, kind: DecimalType) -> Decimal | str:
    """The number that a text says, or the reason why it cannot be stored."""
    text = text.strip()
    if len(text) > MAX_NUMBER_LENGTH:
        return f"{kind.name} is longer than {MAX_NUMBER_LENGTH:,} characters"
    if not NUMBER_PATTERN.fullmatch(text):
        return f"{kind.name} is not a number"
    value = Decimal(text)
    if value <= 0:
        return f"{kind.name} is not positive"
    # Compared by position, since arithmetic on a wild exponent would round or fail.
    if value.adjusted() >= kind.type.precision - kind.type.scale:
        return f"{kind.name} does not fit decimal({kind.type.precision},{kind.type.scale})"
    digits, exponent = value.as_tuple().digits, int(value.as_tuple().exponent)
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    if exponent + zeros < -kind.type.scale:
        return f"{kind.name} has more than {kind.type.scale} decimals"
    # Without its trailing zeros: there may be more of them than Arrow can hold.
    return Decimal((0, digits[: len(digits) - zeros], exponent + zeros))
