"""Whatever a file holds and is called: reading it gives rows, or an error that names it and can be shown."""

import errno
import gzip
import io
import os
import random
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.sources import reader
from k2_ohlcv.sources.reader import read_file

Write = Callable[..., Path]
T = 1723161255
CSV = "timestamp,price,quantity,trade_id\n" + "".join(f"{T + i},{i + 1}.5,1,{i}\n" for i in range(300))


def everything(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    batches = list(read_file(path, exchange="E", symbol="S"))
    trades = [row for batch in batches for row in batch.trades.to_pylist()]
    return trades, [row for batch in batches for row in batch.rejected.to_pylist()]


def refusal(path: Path) -> str:
    """The message of a file that cannot be read, shown to be fit for a terminal and for JSON."""
    with pytest.raises((BadFileError, UsageError)) as caught:
        everything(path)
    message = str(caught.value)
    assert message.isprintable(), ascii(message)
    message.encode()
    return message


def parquet_bytes(**columns: Any) -> bytes:
    rows = {"timestamp": [T] * 3, "price": [1.5] * 3, "size": [2.0] * 3} | columns
    sink = io.BytesIO()
    pq.write_table(pa.table(rows), sink)
    return sink.getvalue()


def zip_bytes(name: str = "trades.csv", text: str = CSV) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return sink.getvalue()


def not_utf8(*values: bytes) -> pa.Array:
    """A column of text that holds other bytes, as some writers make it."""
    offsets = pa.array([0, *(len(b"".join(values[: i + 1])) for i in range(len(values)))], pa.int32())
    return pa.StringArray.from_buffers(len(values), offsets.buffers()[1], pa.py_buffer(b"".join(values)))


def test_a_zip_that_claims_more_than_it_has(tmp_path: Path) -> None:
    """The error has no text of its own, and is named."""
    path = tmp_path / "long.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trades.csv", CSV)
    content = bytearray(path.read_bytes())
    struct.pack_into("<II", content, content.rfind(b"PK\x01\x02") + 20, 2**31, 2**31)
    path.write_bytes(content)
    assert "(EOFError)" in refusal(path)


def test_a_zip_with_a_bad_member_name(tmp_path: Path) -> None:
    """The name claims to be UTF-8 and is not."""
    path = tmp_path / "bad.zip"
    path.write_bytes(zip_bytes("träd.csv").replace("träd.csv".encode(), b"tr\xff\xfed.csv"))
    assert "bad.zip" in refusal(path)
    path.write_bytes(zip_bytes("a\x1b[31m.csv").replace(b"PK\x01\x02", b"PK\x01\x02"))
    assert len(everything(path)[0]) == 300, "an odd name alone is no reason"


def test_sentinel_timestamps_cost_only_their_rows(tmp_path: Path) -> None:
    """Times that Python has no name for, in every unit; the raw text says what was there."""
    path = tmp_path / "t.parquet"
    for unit in ("ms", "us", "ns"):
        for value in (-(2**63), -(2**62), 2**63 - 1, 2**62):
            times = pa.array([value, T * 10 ** (3 * ["s", "ms", "us", "ns"].index(unit)), value], pa.int64())
            path.write_bytes(parquet_bytes(timestamp=times.view(pa.timestamp(unit, "UTC"))))
            trades, rejected = everything(path)
            assert [row["line"] for row in trades] == [2], (unit, value)
            assert [row["line"] for row in rejected] == [1, 3]
            assert rejected[0]["raw"].endswith(",1.5,2.0")
            assert "timestamp is" in rejected[0]["reason"]


def test_text_in_parquet_that_is_not_utf8_costs_only_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes(trade_id=not_utf8(b"a", b"\xff\xfe", b"c")))
    trades, rejected = everything(path)
    assert [row["trade_id"] for row in trades] == ["a", "c"]
    assert [row["line"] for row in rejected] == [2]
    path.write_bytes(parquet_bytes(price=not_utf8(b"1.5", b"1\xff", b"2")))
    assert [row["line"] for row in everything(path)[1]] == [2]


def test_a_column_name_in_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes(xxxxzzzz=[1, 2, 3]).replace(b"xxxxzzzz", b"\xff\xfe\x1b[31m\xff"))
    assert "t.parquet" in refusal(path)


@pytest.mark.parametrize("name", [b"caf\xe9.csv", b"caf\xe9/t.csv", b"caf\xe9.csv.gz", b"\xff.parquet"])
def test_a_file_whose_name_is_not_utf8(tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    path.write_text(CSV)
    message = refusal(path)
    assert "\\xe9" in message or "\\xff" in message
    assert "not UTF-8: rename" in message


def test_names_with_control_characters_are_shown_as_escapes(land: Write) -> None:
    path = land("a\x1b[2J\n[red]b.csv", "")
    assert "a\\x1b[2J\\n[red]b.csv: the file is empty" in refusal(path)


def test_no_error_shows_raw_bytes(tmp_path: Path) -> None:
    """A binary file says what it is, where that is known; nothing of it reaches the terminal as it is."""
    table = pa.table({"timestamp": [T], "price": [1.5], "size": [1.0]})
    feather.write_feather(table, tmp_path / "arrow")
    (tmp_path / "feather").write_bytes(b"FEA1" + b"\x1b\0" * 20)
    orc.write_table(table, tmp_path / "orc")
    with sqlite3.connect(tmp_path / "sqlite") as database:
        database.execute("create table trades (price real)")
    database.close()
    for codec in ("zstd", "bz2", "lz4"):
        with pa.CompressedOutputStream(str(tmp_path / codec), codec) as stream:
            stream.write(CSV.encode())
    import lzma

    (tmp_path / "xz").write_bytes(lzma.compress(CSV.encode()))
    (tmp_path / "7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4" + b"\0" * 24)
    (tmp_path / "avro").write_bytes(b"Obj\x01" + b"\x00\x1b" * 20)
    (tmp_path / "utf16").write_bytes(CSV.encode("utf-16"))
    kinds = {
        "arrow": "Arrow",
        "feather": "feather",
        "orc": "ORC",
        "sqlite": "SQLite",
        "zstd": "zstd",
        "bz2": "bzip2",
        "lz4": "lz4",
        "xz": "xz",
        "7z": "7z",
        "avro": "Avro",
        "utf16": "UTF-16",
    }
    for name, kind in kinds.items():
        assert f"{name}: is " in refusal(tmp_path / name)
        assert kind in refusal(tmp_path / name)
    (tmp_path / "other").write_bytes(b"\x1b[2J\x07" + bytes(range(256)) * 10)
    assert "is not of any known format" in refusal(tmp_path / "other")
    (tmp_path / "bytes").write_bytes(b"\xc3\x28\x1b,\xff\xfe\n" * 10)
    assert "whose first line is not UTF-8 text is not of any known format" in refusal(tmp_path / "bytes")
    (tmp_path / "inside.gz").write_bytes(gzip.compress((tmp_path / "arrow").read_bytes()))
    assert "Arrow" in refusal(tmp_path / "inside.gz")


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    """Opening a pipe would wait for a writer for ever."""
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a regular file" in refusal(tmp_path / "pipe.csv")


def test_names_that_no_trade_has(land: Write) -> None:
    """Control characters in ids and symbols would reach terminals with every command that shows them."""
    text = "timestamp,price,quantity,trade_id,symbol\n"
    rows = ["a\x1b[31m,S", "b,S\x07", "c\u009b1m,S", "d,\ufffd", "e" * 201 + ",S", "f,S", " ,S"]
    path = land("t.csv", text + "".join(f"{T},1,1,{row}\n" for row in rows))
    trades, rejected = landing_rows(path)
    assert [row["trade_id"] for row in trades] == ["f"]
    reasons = [row["reason"].split(",")[0] for row in rejected]
    assert reasons == [
        "trade_id holds control characters",
        "symbol holds control characters",
        "trade_id holds control characters",
        "symbol holds control characters",
        "trade_id is longer than 200 bytes",
        "trade_id is empty",
    ]
    with pytest.raises(UsageError, match=r"symbol holds control characters.*\\x1b"):
        next(read_file(land("u.csv", CSV), exchange="E", symbol="\x1b[31m"))


def landing_rows(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    batches = list(read_file(path, exchange="E"))
    return [r for b in batches for r in b.trades.to_pylist()], [
        r for b in batches for r in b.rejected.to_pylist()
    ]


def test_what_this_machine_lacks_is_no_failure_of_the_file(
    land: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised as it is, so that it is tried again."""
    path = land("t.csv", CSV)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(reader, "detect_kind", fail)
    with pytest.raises(OSError, match="Too many open files"):
        everything(path)

    def surprise(*_: object) -> None:
        raise struct.error("\x1b[31mwhat")

    monkeypatch.setattr(reader, "detect_kind", surprise)
    with pytest.raises(BadFileError, match=r"t\.csv: cannot be read \(error: .x1b\[31mwhat\)"):
        everything(path)


SOURCES = {
    "csv": CSV.encode(),
    "gz": gzip.compress(CSV.encode()),
    "zip": zip_bytes(),
    "parquet": parquet_bytes(trade_id=["a", "b", "c"], symbol=["S", "T", "S"]),
    "parquet-times": parquet_bytes(timestamp=pa.array([T] * 3, pa.timestamp("ms", "UTC"))),
    "quotes": b'"timestamp","price","quantity"\r\n"1723161255","1","1"\r\n' * 20,
}


def garbled(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled or put in."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        at, length = chance.randrange(len(made) + 1), chance.choice([1, 1, 2, 8, 100])
        kind = chance.randrange(5)
        if kind == 0:
            made[at : at + length] = chance.randbytes(length)
        elif kind == 1:
            del made[at : at + length]
        elif kind == 2:
            made[at:at] = made[at : at + length]
        elif kind == 3:
            made[at:at] = chance.choice([b"\0", b"\r", b'"', b"\n", b"\xff" * 8, b"\x7f" * 4, b"\r\n\r"])
        else:
            del made[at:]
    return bytes(made)


@pytest.mark.parametrize("kind", [*SOURCES, "random"])
def test_garbled_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    """Nothing but the errors that say which file it is comes out of the reader."""
    chance = random.Random(f"garbled {kind}")
    path = tmp_path / "t"
    for _ in range(250):
        data = chance.randbytes(chance.randrange(1, 400)) if kind == "random" else SOURCES[kind]
        path.write_bytes(data if kind == "random" else garbled(data, chance))
        trades: list[Any] = []
        rejected: list[Any] = []
        refused = f"{path}"
        try:
            trades, rejected = everything(path)
        except (BadFileError, UsageError) as error:
            refused = str(error)
        assert refused.isprintable(), ascii(refused)
        assert str(path) in refused
        for row in rejected:
            row["raw"].encode()
            assert len(row["raw"]) <= 1_003
        assert all(row["trade_id"] is None or "\x1b" not in row["trade_id"] for row in trades)
