"""Files in which almost nothing is a trade are refused, or read without much work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.sources import csv_blocks, line_blocks, reader
from k2_ohlcv_tests.support.landed_files import read_rows
from k2_ohlcv_tests.support.odd_files import parquet_bytes

Write = Callable[[str, str | bytes], Path]
HEADER = "timestamp,price,amount\n"
GOOD, BAD = "1723161255,1,1\n", "1723161255,x,1\n"


@pytest.mark.parametrize("block", [40, 1 << 20])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_file_with_too_many_rejected_rows_is_refused(
    land: Write, monkeypatch: pytest.MonkeyPatch, name: str, block: int
) -> None:
    """The limit is for the whole file, and the error names a line and its reason."""
    monkeypatch.setattr(reader, "MAX_REJECTED_ROWS", 3)
    monkeypatch.setattr(line_blocks, "MAX_BLOCK_BYTES", block)
    trades, rejected = read_rows(land(name, HEADER + (GOOD + BAD) * 3 + GOOD))
    assert (len(trades), len(rejected)) == (4, 3)
    with pytest.raises(BadFileError, match=r"more than 3 rows.* line 9 \(price is not a number\).*refused"):
        read_rows(land(name, HEADER + (GOOD + BAD) * 4 + GOOD))


def test_a_parquet_file_has_the_same_limit(land: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_REJECTED_ROWS", 1)
    content = parquet_bytes(price=["1", "x", "y"])
    with pytest.raises(BadFileError, match="more than 1 rows cannot be trades"):
        read_rows(land("t.parquet", content))


def test_a_refused_file_leaves_nothing(
    lake: Lake, land: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows before the limit are not stored either, nor is another file of the same call."""
    monkeypatch.setattr(reader, "MAX_REJECTED_ROWS", 3)
    monkeypatch.setattr(line_blocks, "MAX_BLOCK_BYTES", 40)
    files = [land("a.csv", HEADER + GOOD), land("b.csv", HEADER + GOOD * 50 + BAD * 4)]
    with pytest.raises(BadFileError, match=r"b\.csv"):
        ingest(lake, files, exchange="E", symbol="S", workspace=tmp_path / "work")
    assert isinstance(lake.trades(), MissingTable)
    assert [path.name for path in (tmp_path / "work").iterdir()] == [".lock"]


def test_blank_lines_are_not_decoded(land: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small compressed file may have hundreds of millions. Lines after them keep their numbers."""
    decoded: list[bytes] = []
    real = csv_blocks._decode_line

    def decode(line: bytes) -> str:
        decoded.append(line)
        return real(line)

    monkeypatch.setattr(csv_blocks, "_decode_line", decode)
    blank = "\n \n\r\n\t\r\n" * 250
    trades, rejected = read_rows(land("t.csv.gz", HEADER + GOOD + blank + GOOD + blank + "1,2\n"))
    assert [t["line"] for t in trades] == [2, 1003]
    assert [r["line"] for r in rejected] == [2004]
    assert len(decoded) < 100  # the detection of the format decodes the first lines
