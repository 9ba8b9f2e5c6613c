"""Files with random damage: the reader gives rows, or an error that names the file."""

import gzip
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv_tests.support.landed_files import read_rows
from k2_ohlcv_tests.support.odd_files import CSV, T, parquet_bytes, zip_bytes

SOURCES = {
    "csv": CSV.encode(),
    "gz": gzip.compress(CSV.encode()),
    "zip": zip_bytes(),
    "parquet": parquet_bytes(trade_id=["a", "b", "c"], symbol=["S", "T", "S"]),
    "parquet-times": parquet_bytes(timestamp=pa.array([T] * 3, pa.timestamp("ms", "UTC"))),
    "quotes": b'"timestamp","price","quantity"\r\n"1723161255","1","1"\r\n' * 20,
}


def garble(data: bytes, chance: random.Random) -> bytes:
    """Change, remove, repeat or insert some bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        at, length = chance.randrange(len(changed) + 1), chance.choice([1, 1, 2, 8, 100])
        kind = chance.randrange(5)
        if kind == 0:
            changed[at : at + length] = chance.randbytes(length)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length]
        elif kind == 3:
            changed[at:at] = chance.choice([b"\0", b"\r", b'"', b"\n", b"\xff" * 8, b"\x7f" * 4, b"\r\n\r"])
        else:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("kind", [*SOURCES, "random"])
def test_garbled_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    """The reader raises only errors that name the file."""
    chance = random.Random(f"garbled {kind}")
    path = tmp_path / "t"
    for _ in range(250):
        data = chance.randbytes(chance.randrange(1, 400)) if kind == "random" else SOURCES[kind]
        path.write_bytes(data if kind == "random" else garble(data, chance))
        trades: list[Any] = []
        rejected: list[Any] = []
        message = f"{path}"
        try:
            trades, rejected = read_rows(path)
        except (BadFileError, UsageError) as error:
            message = str(error)
        assert message.isprintable(), ascii(message)
        assert str(path) in message
        for row in rejected:
            row["raw"].encode()
            assert len(row["raw"]) <= 1_003
        assert all(row["trade_id"] is None or "\x1b" not in row["trade_id"] for row in trades)
