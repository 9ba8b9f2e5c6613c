"""Text of unknown origin is made safe to show."""

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.printable import is_utf8, make_printable, make_printable_path


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text() | st.binary().map(os.fsdecode) | st.text(st.characters(categories=["Cs", "Cc", "Cf"])))
def test_any_text_can_be_shown_and_stored(text: str) -> None:
    """The result is printable and valid UTF-8. Plain text is left as it is."""
    shown = make_printable(text, 10_000)
    assert shown.isprintable()
    shown.encode()
    assert shown == text or not text.isprintable()


def test_hidden_characters_become_visible() -> None:
    assert (
        make_printable("a\x1b[31m\r\n\x9b\u202eb\udcff\ud800") == "a\\x1b[31m\\r\\n\\x9b\\u202eb\\xff\\ud800"
    )
    assert make_printable("a\n\tb", keep="\n") == "a\n\\tb"
    assert make_printable("x" * 5_000, 10) == "x" * 10 + "... (5,000 characters)"
    assert make_printable_path(Path("caf\udce9.csv")) == "caf\\xe9.csv"
    assert is_utf8("café")
    assert not is_utf8("caf\udce9")
