"""Checks columns of ids, symbols and exchanges, with a reason for each row whose name is not valid."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.sources.columns import ParsedColumn
from k2_ohlcv.sources.decimals import MAX_NUMBER_LENGTH, read_text_bytes, read_text_offsets

#: In bytes. The limit bounds the memory of a column of names, for any file.
MAX_NAME_LENGTH = MAX_NUMBER_LENGTH
# Control characters, and the replacement character for bytes that are not UTF-8.
_CONTROL_CHARACTERS = "[\\p{Cc}\ufffd]"


def name_error(role: str, name: str) -> str | None:
    """The reason why a name is not valid as an exchange or symbol, or None if it is valid."""
    return parse_names(role, pa.array([name], pa.string())).errors.get(0)


def parse_names(role: str, column: pa.Array) -> ParsedColumn:
    """Trim names. A row has an error if its name is empty, too long, or has control characters."""
    texts = trim_texts(pc.cast(column, pa.string()))
    errors: dict[int, str] = {}
    lengths = np.diff(read_text_offsets(texts))
    _add_errors(errors, lengths == 0, f"{role} is empty")
    _add_errors(errors, lengths > MAX_NAME_LENGTH, f"{role} is longer than {MAX_NAME_LENGTH} bytes")
    characters = read_text_bytes(texts)
    if ((characters < ord(" ")) | (characters > ord("~"))).any():
        unprintable = pc.match_substring_regex(texts, _CONTROL_CHARACTERS).to_numpy(zero_copy_only=False)
        _add_errors(errors, unprintable, f"{role} holds control characters, or bytes that are not UTF-8")
    return ParsedColumn(texts, errors)


def trim_texts(texts: pa.Array) -> pa.Array:
    """Remove Unicode spaces around each text. A null becomes the empty text.

    The search for spaces only saves time. The result is the same without it.
    """
    texts = pc.fill_null(texts, "") if texts.null_count else texts
    characters = read_text_bytes(texts)
    may_be_space = (characters <= ord(" ")) | (characters > ord("~"))
    return pc.utf8_trim_whitespace(texts) if may_be_space.any() else texts


def _add_errors(errors: dict[int, str], rows: "np.typing.NDArray[np.bool_]", reason: str) -> None:
    for row in np.flatnonzero(rows).tolist():
        errors.setdefault(row, reason)
