"""Blocks of lines: bounded memory for small files with large contents, and lines that are too long."""

import gzip
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.sources import line_blocks
from k2_ohlcv.sources.reader import read_file

HEADER = b"timestamp,price,quantity,trade_id\n"
ROW = b"1723161255,1,1,a\n"
MIB = 1 << 20
#: Prints the peak memory of reading, without that of the imports. Some 200 MiB are blocks in flight. With
#: `unlimited` the bounds of unpacked bytes and of rejected rows are lifted, so that all rows are read.
READ = """
import resource, sys
from pathlib import Path
from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.sources import compression, reader
from k2_ohlcv.sources.reader import read_file
from k2_ohlcv.sources.staging.rejected_buffer import RejectedBuffer
if sys.argv[3] == "unlimited":
    compression.MAX_UNPACKED_RATIO = reader.MAX_REJECTED_ROWS = 10**9
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, counts = peak(), [0, 0]
buffer = RejectedBuffer(Path(sys.argv[2]))
try:
    for batch in read_file(Path(sys.argv[1]), exchange="E", symbol="S"):
        counts = [counts[0] + batch.trades.num_rows, counts[1] + batch.rejected.num_rows]
        buffer.add(batch.rejected, sys.argv[1])
    for table in buffer.read_batches():
        assert table.nbytes < 200 << 20
except BadFileError as error:
    assert len(str(error)) < 1000
    print("refused")
print(peak() - before, *counts)
"""


def measure_reading(path: Path, folder: Path, limits: str = "unlimited") -> tuple[int, int, int]:
    """Peak memory of reading in MiB, number of trades, number of rejected rows."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(folder), limits],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("refused" in done.stdout) == (limits == "limited")
    peak, trades, rejected = done.stdout.split()[-3:]
    return int(peak), int(trades), int(rejected)


def write_gzip(parts: Iterator[bytes], path: Path) -> Path:
    packer = zlib.compressobj(1, wbits=31)
    with path.open("wb") as file:
        for part in parts:
            file.write(packer.compress(part))
        file.write(packer.flush())
    return path


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "part", "times", "rejected"),
    [
        ("short lines", b"x\n" * (MIB // 2), 6, 6 * MIB // 2),
        ("bad cells", b"x,y,z,\n" * MIB, 1, MIB),
        ("lines near the limit", b"y" * (MIB - 1) + b"\n", 100, 100),
        ("one endless line", b"z" * MIB, 800, 1),
        ("long ids", b"1723161255,1,1," + b"i" * 100_000 + b"\n", 2_000, 2_000),
        ("long numbers", b"1723161255," + b"1" * 100_000 + b",1,a\n", 2_000, 2_000),
    ],
)
def test_a_small_file_takes_bounded_memory(
    tmp_path: Path, name: str, part: bytes, times: int, rejected: int
) -> None:
    """Each file has at most some MB, and unpacks to up to 800 MB."""
    path = write_gzip((p for p in [HEADER + ROW, *[part] * times]), tmp_path / "bomb.csv.gz")
    assert path.stat().st_size < 8 * MIB
    peak, trades, refused = measure_reading(path, tmp_path)
    assert (trades, refused) == (1, rejected)
    assert peak < 700, f"{name}: {peak} MiB"
    peak, trades, refused = measure_reading(path, tmp_path, "limited")
    assert refused < rejected, "the limits end the reading early"
    assert peak < 700, f"{name}: {peak} MiB"


@pytest.mark.system
def test_a_long_text_in_every_row_of_a_parquet_file_takes_bounded_memory(tmp_path: Path) -> None:
    """The file stores the text once. 300,000 copies of the text would take 60 GB."""
    size = 300_000
    path = tmp_path / "bomb.parquet"
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int32)), pa.array(["x" * 200_000]))
    table = {"timestamp": np.full(size, 1723161255), "price": np.ones(size), "size": np.ones(size)}
    pq.write_table(pa.table({**table, "trade_id": ids}), path, store_schema=False)
    assert path.stat().st_size < MIB
    peak, trades, refused = measure_reading(path, tmp_path)
    assert (trades, refused) == (0, size)
    assert peak < 700


def read_lines(path: Path) -> tuple[list[int], list[dict[str, Any]]]:
    batches = list(read_file(path, exchange="E", symbol="S"))
    trades = [line for b in batches for line in b.trades["line"].to_pylist()]
    return trades, [row for b in batches for row in b.rejected.to_pylist()]


@pytest.mark.parametrize("size", [7, 64, 1000, 1 << 20])
@pytest.mark.parametrize("most", [1, 2, 100])
def test_a_line_that_is_too_long_is_rejected_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, most: int
) -> None:
    """At any block size, later lines keep their numbers. The start of the long line is stored."""
    monkeypatch.setattr(line_blocks, "MAX_BLOCK_BYTES", size)
    monkeypatch.setattr(line_blocks, "MAX_BLOCK_LINES", most)
    monkeypatch.setattr(line_blocks, "MAX_LINE_BYTES", 60)
    long = b"1723161255,1,1," + b"b" * 500 + b"\n"
    for packed in (False, True):
        path = tmp_path / f"t{packed}"
        text = HEADER + ROW + long + ROW + b"\n" + long + long + ROW * 3 + long[:-1]
        path.write_bytes(gzip.compress(text) if packed else text)
        trades, rejected = read_lines(path)
        assert trades == [2, 4, 8, 9, 10]
        assert [row["line"] for row in rejected] == [3, 6, 7, 11]
        assert {row["reason"] for row in rejected} == {"is longer than 60 bytes"}
        assert all(row["raw"].startswith("1723161255,1,1,bbb") for row in rejected)
    path.write_bytes(b"x" * 500 + b"\n" + ROW)
    with pytest.raises(BadFileError, match="line 1 is longer than 60 bytes: this is not a table of trades"):
        read_lines(path)


def test_raw_text_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER + b"x" * 1_000 + b"\n" + b"y" * 1_001 + b"\n")
    assert [row["raw"] for row in read_lines(path)[1]] == ["x" * 1_000, "y" * 1_000 + "..."]
