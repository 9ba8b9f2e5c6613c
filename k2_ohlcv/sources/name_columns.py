"""Columns of ids, symbols and exchanges, each with the rows whose name cannot be one."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.sources.columns import ParsedColumn
from k2_ohlcv.sources.decimals import MAX_NUMBER_LENGTH, read_text_bytes, read_text_offsets

#: In bytes. A column of names stays small in memory, whatever a file claims.
MAX_NAME_LENGTH = MAX_NUMBER_LENGTH
# Control characters, and what stands for bytes that are not UTF-8.
_CONTROL_CHARACTERS = "[\\p{Cc}\ufffd]"


def name_error(role: str, name: str) -> str | None:
    """Why a single name cannot be a trade's exchange or symbol, or None where it can."""
    return parse_names(role, pa.array([name], pa.string())).errors.get(0)


def parse_names(role: str, column: pa.Array) -> ParsedColumn:
    """Names without spaces around them; faults where one is empty, too long, or holds control characters."""
    texts = trim_texts(pc.cast(column, pa.string()))
    faults: dict[int, str] = {}
    lengths = np.diff(read_text_offsets(texts))
    _add_errors(faults, lengths == 0, f"{role} is empty")
    _add_errors(faults, lengths > MAX_NAME_LENGTH, f"{role} is longer than {MAX_NAME_LENGTH} bytes")
    characters = read_text_bytes(texts)
    if ((characters < ord(" ")) | (characters > ord("~"))).any():
        unprintable = pc.match_substring_regex(texts, _CONTROL_CHARACTERS).to_numpy(zero_copy_only=False)
        _add_errors(faults, unprintable, f"{role} holds control characters, or bytes that are not UTF-8")
    return ParsedColumn(texts, faults)


def trim_texts(texts: pa.Array) -> pa.Array:
    """The texts without Unicode's spaces around them; null is the empty text.

    Each text is trimmed alike, whatever the others are: looking for spaces first only saves time.
    """
    texts = pc.fill_null(texts, "") if texts.null_count else texts
    characters = read_text_bytes(texts)
    odd = (characters <= ord(" ")) | (characters > ord("~"))
    return pc.utf8_trim_whitespace(texts) if odd.any() else texts


def _add_errors(faults: dict[int, str], rows: "np.typing.NDArray[np.bool_]", reason: str) -> None:
    for row in np.flatnonzero(rows).tolist():
        faults.setdefault(row, reason)
