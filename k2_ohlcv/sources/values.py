"""Columns of a dump to exact decimals and UTC microseconds, each with the rows that cannot be one.

Whole columns are converted at once where their text is plain; a row that is written in some other way
(`1e-8`, spaces, a sign) is read alone through Python's Decimal. No value ever passes a float.
Nothing here knows of files or formats.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain import trading_times
from k2_ohlcv.domain.window import DAY, to_micros

Int64s = npt.NDArray[np.int64]

#: Bitcoin's first block is of January 2009: what claims to be older is not a trade of it.
OLDEST = to_micros(trading_times.OLDEST)

# Arrow's parser silently wraps numbers of more than 38 digits: longer text goes row by row.
_LONGEST = 30
_PLAIN = r"^[0-9]{1,15}(\.[0-9]{1,8}0*)?$"
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?", re.ASCII)
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?", re.ASCII)
_FRACTION = re.compile(r"(\.[0-9]{6})[0-9]+")


@dataclass(frozen=True)
class Column:
    """A converted column, and why rows of it are unusable.

    Attributes:
        values: as many values as there were rows; a row at fault has any value.
        faults: row number -> reason.
    """

    values: pa.Array
    faults: dict[int, str]


@dataclass(frozen=True)
class Kind:
    """What a decimal column must be: its name in reasons, and its type."""

    name: str
    type: pa.Decimal128Type


PRICE = Kind("price", pa.decimal128(18, 8))
QUANTITY = Kind("quantity", pa.decimal128(19, 8))


def text_bytes(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """The characters of a string column, one after another (nulls have none)."""
    offsets = text_offsets(texts)
    data = texts.buffers()[2]
    if data is None or not len(texts):
        return np.empty(0, np.uint8)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]


def text_offsets(texts: pa.Array) -> npt.NDArray[np.int32]:
    """Where each text begins in its buffer, and where the last ends."""
    if not len(texts):
        return np.zeros(1, np.int32)
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]


def is_plain(texts: pa.Array, *, point: bool) -> bool:
    """Whether every text is short and of ASCII digits only (and points, where those are allowed)."""
    if texts.null_count or not len(texts):
        return False
    characters, lengths = text_bytes(texts), np.diff(text_offsets(texts))
    if lengths.max() > (_LONGEST if point else 18) or lengths.min() < 1:
        return False
    digits = (characters - np.uint8(ord("0"))) < 10
    if point:
        digits |= characters == ord(".")
    return bool(digits.all())


def decimals(texts: pa.Array, kind: Kind) -> Column:
    """Decimal texts to a decimal column; faults where one is not a positive number that fits exactly."""
    faults: dict[int, str] = {}
    values = None
    if is_plain(texts, point=True):
        with suppress(pa.ArrowInvalid):  # some row does not fit: find out which
            values = pc.cast(texts, kind.type)
    if values is None:
        values = _decimals_by_row(texts, kind, faults)
    for row in np.flatnonzero(
        pc.less_equal(values, pa.scalar(Decimal(0), kind.type)).to_numpy(zero_copy_only=False)
    ):
        faults.setdefault(int(row), f"{kind.name} is not positive")
    return Column(values, faults)


def _decimals_by_row(texts: pa.Array, kind: Kind, faults: dict[int, str]) -> pa.Array:
    texts = pc.fill_null(texts, "")
    whole_digits = kind.type.precision - kind.type.scale
    plain = pc.and_(
        pc.match_substring_regex(texts, _PLAIN.replace("15", str(whole_digits))),
        pc.less_equal(pc.binary_length(texts), _LONGEST),
    )
    values = pc.cast(pc.if_else(plain, texts, "0"), kind.type)
    odd = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    if not len(odd):
        return values
    replaced: list[Decimal] = []
    for row, text in zip(odd, texts.take(pa.array(odd)).to_pylist(), strict=True):
        value = exact_decimal(text, kind)
        if isinstance(value, str):
            faults[int(row)] = value
        replaced.append(Decimal(1) if isinstance(value, str) else value)
    return pc.replace_with_mask(values, pc.invert(plain), pa.array(replaced, kind.type))


def exact_decimal(text: str, kind: Kind) -> Decimal | str:
    """The number that a text says, or the reason why it cannot be stored."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
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


def times(column: pa.Array, now: datetime) -> Column:
    """A column of times to timestamp[us, UTC]; faults where one is no time, or none that a trade has.

    Args:
        column: text (ISO 8601, or a number since the epoch), integers, floats or timestamps of any unit.
        now: the moment of reading; more than a day ahead of it is a fault.
    """
    faults: dict[int, str] = {}
    micros = _micros(column, faults)
    for row in np.flatnonzero(micros < OLDEST):
        faults.setdefault(int(row), "timestamp is before 2009-01-01")
    for row in np.flatnonzero(micros > to_micros(now + DAY)):
        faults.setdefault(int(row), "timestamp is more than a day ahead")
    return Column(pa.array(micros).view(pa.timestamp("us", "UTC")), faults)


def _micros(column: pa.Array, faults: dict[int, str]) -> Int64s:
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        # Finer than a microsecond is cut, as it is where the text has more digits.
        cast = pc.cast(column, pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
        return _filled(pc.cast(cast, pa.int64()), faults)
    if pa.types.is_integer(kind):
        return _scaled(_filled(pc.cast(column, pa.int64()), faults))
    texts = pc.cast(column, pa.string())
    for convert in (_whole_numbers, _fractions, _iso_texts):
        micros = convert(texts)
        if micros is not None:
            return micros
    texts = pc.fill_null(texts, "").to_pylist()
    return np.array([_or_fault(row, text, faults) for row, text in enumerate(texts)], np.int64)


def _filled(values: pa.Array, faults: dict[int, str]) -> Int64s:
    for row in np.flatnonzero(pc.is_null(values).to_numpy(zero_copy_only=False)):
        faults[int(row)] = "timestamp is not a time"
    filled: Int64s = pc.fill_null(values, OLDEST).to_numpy(zero_copy_only=False)
    return filled


def _scaled(numbers: Int64s) -> Int64s:
    """Seconds, milliseconds, microseconds or nanoseconds, told apart by magnitude, to microseconds."""
    factors: tuple[tuple[int, Callable[[Int64s], Int64s]], ...] = (
        (10**11, lambda n: n * 1_000_000),
        (10**14, lambda n: n * 1_000),
        (10**17, lambda n: n),
    )
    if not len(numbers):
        return numbers
    for limit, convert in factors:  # nearly always the whole column is in one unit
        if numbers.max() < limit and (numbers.min() >= limit // 1000 or limit == factors[0][0]):
            return convert(np.maximum(numbers, 0))
    scaled = numbers // 1_000
    for limit, convert in reversed(factors):
        scaled = np.where(numbers < limit, convert(np.clip(numbers, 0, limit)), scaled)
    return scaled


def _whole_numbers(texts: pa.Array) -> Int64s | None:
    if not is_plain(texts, point=False) and not _nanoseconds(texts):
        return None
    return _scaled(pc.cast(texts, pa.int64()).to_numpy())


def _nanoseconds(texts: pa.Array) -> bool:
    """Whether all are of 19 digits and within 64 bits: nanoseconds until the year 2262."""
    if texts.null_count or not len(texts):
        return False
    characters, lengths = text_bytes(texts), np.diff(text_offsets(texts))
    if lengths.min() != 19 or lengths.max() != 19:
        return False
    first = characters[:: lengths[0]]
    return bool(((characters - np.uint8(ord("0"))) < 10).all() and (first <= ord("8")).all())


def _fractions(texts: pa.Array) -> Int64s | None:
    """Fractional seconds, all of them at most nine digits after the point."""
    if not is_plain(texts, point=True):
        return None
    try:
        values = pc.cast(texts, pa.decimal128(38, 9))
    except pa.ArrowInvalid:
        return None
    words = np.frombuffer(values.buffers()[1], np.int64).reshape(-1, 2)[
        values.offset : values.offset + len(values)
    ]
    # Seconds times 10^9 fill the low word until the year 2262; other units are read row by row.
    return words[:, 0] // 1_000 if not words[:, 1].any() and (words[:, 0] >= 0).all() else None


def _iso_texts(texts: pa.Array) -> Int64s | None:
    if texts.null_count or not len(texts) or text_bytes(texts)[4:5].tobytes() != b"-":
        return None
    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us")):  # with a zone, or without: UTC
        try:
            micros: Int64s = pc.cast(pc.cast(texts, kind), pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            continue
        return micros
    return None


def _or_fault(row: int, text: str, faults: dict[int, str]) -> int:
    micros = micros_of(text)
    if micros is None:
        faults[row] = "timestamp is not a time"
        return OLDEST
    return micros


def micros_of(text: str) -> int | None:
    """The microseconds since the epoch that a text says, finer digits cut, or None where it is no time."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = Decimal(text)
        if number <= 0 or number.adjusted() > 18:
            return 0 if number <= 0 else 2**62
        shift = next((s for limit, s in ((11, 6), (14, 3), (17, 0)) if number.adjusted() < limit), -3)
        return int(number.scaleb(shift))
    if not _ISO_DATE.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(r"\1", text))
        return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None
