"""Text of unknown origin, made safe for messages, logs and terminals.

File contents, file names and names of markets may hold control characters, terminal escape sequences or bytes
that are not UTF-8. Every message that shows such text passes it through here.
"""

from pathlib import Path

#: The longest path that Linux opens.
_MAX_PATH = 4096
_FIRST_SURROGATE_ESCAPE, _LAST_SURROGATE_ESCAPE = 0xDC80, 0xDCFF


def make_printable(text: object, limit: int = 200, *, keep: str = "") -> str:
    r"""A text whose every character can be shown.

    Args:
        text: anything; its `str` is shown.
        limit: the most characters that are shown; what is left out is counted.
        keep: characters that stay as they are, such as the newline.

    Returns:
        The text with control and other invisible characters as escapes (`\x1b`), and bytes that are not UTF-8
        as their numbers (`\xff`).
    """
    text = str(text)
    shown = text[:limit]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() or c in keep else _escape(c) for c in shown)
    return shown if len(text) <= limit else f"{shown}... ({len(text):,} characters)"


def make_printable_path(path: Path) -> str:
    """A path as messages show it: whole, without control characters."""
    return make_printable(path, _MAX_PATH)


def is_utf8(name: str | Path) -> bool:
    """Whether the name of a file can be written as UTF-8, as JSON, tags and Arrow need it."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def _escape(character: str) -> str:
    code = ord(character)
    # How Python keeps a byte of a file's name that is not UTF-8.
    if _FIRST_SURROGATE_ESCAPE <= code <= _LAST_SURROGATE_ESCAPE:
        return f"\\x{code - 0xDC00:02x}"
    return ascii(character)[1:-1]
