"""Lines of text files: their numbers, headers, lines without an end and bytes that are not text."""

from collections.abc import Callable
from pathlib import Path

import pytest

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.sources import line_blocks
from k2_ohlcv.sources.reader import read_file
from k2_ohlcv_tests.support.landed_files import read_rows

Write = Callable[[str, str | bytes], Path]
SPOT = "7,61837.63000000,0.02000000,1236.75260000,1723161255342,True,True"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_keep_their_numbers(
    land: Write, monkeypatch: pytest.MonkeyPatch, end: str, last: bool, mark: str
) -> None:
    """Header, blank and malformed lines are counted, with any line end and any block size."""
    text = [
        "timestamp,price,amount",
        "",
        "1723161255,1,1",
        "1723161255,1",
        " ",
        "1723161255,2,1",
        "1,2,3,4",
        "x,y,z",
    ]
    text += ['"1723161255","3","1"', '1723161255,"4,1', "1723161255,5,1"]
    path = land("t.csv", mark + end.join(text) + (end if last else ""))
    for size in (30, 64, 1 << 20):
        monkeypatch.setattr(line_blocks, "MAX_BLOCK_BYTES", size)
        trades, rejected = read_rows(path)
        lines = [(3, 1), (6, 2), (9, 3), (11, 5)]
        assert [(t["line"], int(t["price"])) for t in trades] == (lines if last else lines[:-1])
        assert [(r["line"], r["raw"]) for r in rejected] == [
            (4, "1723161255,1"),
            (7, "1,2,3,4"),
            (8, "x,y,z"),
            (10, '1723161255,"4,1'),
            *([] if last else [(11, "1723161255,5,1")]),
        ]
        assert last or rejected[-1]["reason"] == "unterminated"
        assert rejected[0]["reason"] == "has 2 fields, not 3"
        assert rejected[2]["reason"] == (
            "timestamp is not a time; price is not a number; quantity is not a number"
        )


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.zip"])
@pytest.mark.parametrize(
    ("text", "trades", "unterminated"),
    [
        ("timestamp,price,amount\n1723161255,1,1\n1723161256,1,12", [2, 3], 3),
        ("timestamp,price,amount\n1723161255,1,12", [2], 2),
        ("1723161255,1,1\n1723161256,1,12", [1, 2], 2),
        ("1723161256,1,12", [1], 1),
        ("1723161255,1,1\r\n1723161256,1,12\r", [1, 2], 2),
        ("1723161255,1,1\n1723161256,1,12\n", [1, 2], None),
        ("1723161255,1,1\n \t", [1], None),
    ],
)
def test_a_last_line_without_an_end_is_rejected_in_plain_text(
    land: Write, name: str, text: str, trades: list[int], unterminated: int | None
) -> None:
    """A plain text may be cut there, even in its only line. A compressed file has a checksum."""
    path = land(name, text)
    if unterminated and path.suffix == ".csv":
        trades = trades[:-1]
    else:
        unterminated = None
    batches = list(read_file(path, exchange="E", symbol="S"))
    assert [line for b in batches for line in b.trades["line"].to_pylist()] == trades
    (*_, last) = batches
    assert last.unterminated_line == unterminated
    if unterminated:
        raw = text.splitlines()[-1]
        assert last.rejected.to_pylist()[-1]["reason"] == "unterminated"
        assert last.rejected.to_pylist()[-1]["raw"] == raw


def test_a_header_without_an_end_is_no_row(land: Write) -> None:
    """Rows may follow when the file grows."""
    with pytest.raises(BadFileError, match="a header and no rows"):
        read_rows(land("t.csv", "timestamp,price,amount"))


def test_a_broken_first_row_is_not_taken_for_a_header(land: Write) -> None:
    """A row with a number is data."""
    trades, rejected = read_rows(land("t.csv", f"x{SPOT}\n{SPOT}\n{SPOT}\n".replace("x7", "seven")))
    assert [t["line"] for t in trades] == [1, 2, 3]
    assert rejected == []
    trades, rejected = read_rows(land("t.csv", f"seven,1,oops\n{SPOT}\n{SPOT}\n"))
    assert ([t["line"] for t in trades], [r["line"] for r in rejected]) == ([2, 3], [1])


def test_only_rows_with_bytes_that_are_not_text_are_rejected(land: Write) -> None:
    """The raw text of the row shows where the bytes were."""
    trades, rejected = read_rows(
        land("t.csv", b"timestamp,price,amount\n1723161255,\xff1,1\n1723161255,1,1\n")
    )
    assert [t["line"] for t in trades] == [3]
    assert rejected[0]["raw"] == "1723161255,\ufffd1,1"
