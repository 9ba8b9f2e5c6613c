"""Escaping of untrusted text for messages, logs and terminals.

File contents, file names and market names may contain control characters or terminal escape sequences.
They may also contain bytes that are not UTF-8. Every message that shows such text escapes it here.
Secrets in addresses are in `addresses`.
"""

from pathlib import Path

#: The longest path that Linux opens.
_MAX_PATH = 4096
_FIRST_SURROGATE_ESCAPE, _LAST_SURROGATE_ESCAPE = 0xDC80, 0xDCFF


def make_printable(text: object, limit: int = 200, *, keep: str = "") -> str:
    r"""Escape invisible characters in a text, and shorten the text.

    Args:
        text: any object; the function uses its `str`.
        limit: the maximum number of characters. A longer text ends with its full length.
        keep: characters that are not escaped, such as the newline.

    Returns:
        The text with control and other invisible characters as escapes (`\x1b`). Bytes that are not UTF-8
        are escaped by value (`\xff`).
    """
    text = str(text)
    shown = text[:limit]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() or c in keep else _escape(c) for c in shown)
    return shown if len(text) <= limit else f"{shown}... ({len(text):,} characters)"


def make_printable_path(path: Path) -> str:
    """Escape invisible characters in a path, without shortening the path."""
    return make_printable(path, _MAX_PATH)


def is_utf8(name: str | Path) -> bool:
    """Whether a file name can be encoded as UTF-8. JSON, Dagster tags and Arrow require UTF-8."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def _escape(character: str) -> str:
    code = ord(character)
    # Python represents a byte of a file name that is not UTF-8 as a surrogate.
    if _FIRST_SURROGATE_ESCAPE <= code <= _LAST_SURROGATE_ESCAPE:
        return f"\\x{code - 0xDC00:02x}"
    return ascii(character)[1:-1]
