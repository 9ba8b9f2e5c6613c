"""Files with odd names or contents give rows, or an error that names the file and is safe to show."""

import errno
import gzip
import os
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.orc as orc
import pytest

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.sources import reader
from k2_ohlcv.sources.reader import read_file
from k2_ohlcv_tests.support.landed_files import read_rows
from k2_ohlcv_tests.support.odd_files import CSV, T, parquet_bytes, zip_bytes

Write = Callable[[str, str | bytes], Path]


def error_message(path: Path) -> str:
    """The error of a file that cannot be read. It must be safe for a terminal and for JSON."""
    with pytest.raises((BadFileError, UsageError)) as caught:
        read_rows(path)
    message = str(caught.value)
    assert message.isprintable(), ascii(message)
    message.encode()
    return message


def not_utf8(*values: bytes) -> pa.Array:
    """A text column with bytes that are not UTF-8, as some writers produce."""
    offsets = pa.array([0, *(len(b"".join(values[: i + 1])) for i in range(len(values)))], pa.int32())
    return pa.StringArray.from_buffers(len(values), offsets.buffers()[1], pa.py_buffer(b"".join(values)))


def test_a_zip_with_a_wrong_size_is_an_error(tmp_path: Path) -> None:
    """The original error has no text, so its type is named."""
    path = tmp_path / "long.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trades.csv", CSV)
    content = bytearray(path.read_bytes())
    struct.pack_into("<II", content, content.rfind(b"PK\x01\x02") + 20, 2**31, 2**31)
    path.write_bytes(content)
    assert "(EOFError)" in error_message(path)


def test_a_zip_with_a_member_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    """The archive says that the name is UTF-8."""
    path = tmp_path / "bad.zip"
    path.write_bytes(zip_bytes("träd.csv").replace("träd.csv".encode(), b"tr\xff\xfed.csv"))
    assert "bad.zip" in error_message(path)
    path.write_bytes(zip_bytes("a\x1b[31m.csv").replace(b"PK\x01\x02", b"PK\x01\x02"))
    assert len(read_rows(path)[0]) == 300, "control characters in a name are no error"


def test_only_rows_with_sentinel_timestamps_are_rejected(tmp_path: Path) -> None:
    """Python cannot represent these times. The rejected rows have a raw text."""
    path = tmp_path / "t.parquet"
    for unit in ("ms", "us", "ns"):
        for value in (-(2**63), -(2**62), 2**63 - 1, 2**62):
            times = pa.array([value, T * 10 ** (3 * ["s", "ms", "us", "ns"].index(unit)), value], pa.int64())
            path.write_bytes(parquet_bytes(timestamp=times.view(pa.timestamp(unit, "UTC"))))
            trades, rejected = read_rows(path)
            assert [row["line"] for row in trades] == [2], (unit, value)
            assert [row["line"] for row in rejected] == [1, 3]
            assert rejected[0]["raw"].endswith(",1.5,2.0")
            assert "timestamp is" in rejected[0]["reason"]


def test_only_parquet_rows_that_are_not_utf8_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes(trade_id=not_utf8(b"a", b"\xff\xfe", b"c")))
    trades, rejected = read_rows(path)
    assert [row["trade_id"] for row in trades] == ["a", "c"]
    assert [row["line"] for row in rejected] == [2]
    path.write_bytes(parquet_bytes(price=not_utf8(b"1.5", b"1\xff", b"2")))
    assert [row["line"] for row in read_rows(path)[1]] == [2]


def test_a_column_name_in_parquet_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes(xxxxzzzz=[1, 2, 3]).replace(b"xxxxzzzz", b"\xff\xfe\x1b[31m\xff"))
    assert "t.parquet" in error_message(path)


@pytest.mark.parametrize("name", [b"caf\xe9.csv", b"caf\xe9/t.csv", b"caf\xe9.csv.gz", b"\xff.parquet"])
def test_a_file_name_that_is_not_utf8_is_an_error(tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    path.write_text(CSV)
    message = error_message(path)
    assert "\\xe9" in message or "\\xff" in message
    assert "not UTF-8: rename" in message


def test_names_with_control_characters_are_shown_as_escapes(land: Write) -> None:
    path = land("a\x1b[2J\n[red]b.csv", "")
    assert "a\\x1b[2J\\n[red]b.csv: the file is empty" in error_message(path)


def write_binary_files(folder: Path) -> dict[str, str]:
    """Write a file of each known binary format. Returns the format of each file by name."""
    table = pa.table({"timestamp": [T], "price": [1.5], "size": [1.0]})
    feather.write_feather(table, folder / "arrow")
    (folder / "feather").write_bytes(b"FEA1" + b"\x1b\0" * 20)
    orc.write_table(table, folder / "orc")
    with sqlite3.connect(folder / "sqlite") as database:
        database.execute("create table trades (price real)")
    database.close()
    for codec in ("zstd", "bz2", "lz4"):
        with pa.CompressedOutputStream(str(folder / codec), codec) as stream:
            stream.write(CSV.encode())
    import lzma

    (folder / "xz").write_bytes(lzma.compress(CSV.encode()))
    (folder / "7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4" + b"\0" * 24)
    (folder / "avro").write_bytes(b"Obj\x01" + b"\x00\x1b" * 20)
    (folder / "utf16").write_bytes(CSV.encode("utf-16"))
    return {
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


def test_the_error_of_a_binary_file_names_its_format(tmp_path: Path) -> None:
    """No raw bytes of the file are in the message."""
    for name, kind in write_binary_files(tmp_path).items():
        assert f"{name}: is " in error_message(tmp_path / name)
        assert kind in error_message(tmp_path / name)
    (tmp_path / "other").write_bytes(b"\x1b[2J\x07" + bytes(range(256)) * 10)
    assert "is not of any known format" in error_message(tmp_path / "other")
    (tmp_path / "bytes").write_bytes(b"\xc3\x28\x1b,\xff\xfe\n" * 10)
    assert "whose first line is not UTF-8 text is not of any known format" in error_message(
        tmp_path / "bytes"
    )
    (tmp_path / "inside.gz").write_bytes(gzip.compress((tmp_path / "arrow").read_bytes()))
    assert "Arrow" in error_message(tmp_path / "inside.gz")


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """Opening a pipe would wait for a writer for ever."""
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a regular file" in error_message(tmp_path / "pipe.csv")


def test_ids_and_symbols_with_control_characters_are_rejected(land: Write) -> None:
    """Commands would print the control characters to terminals."""
    text = "timestamp,price,quantity,trade_id,symbol\n"
    rows = ["a\x1b[31m,S", "b,S\x07", "c\u009b1m,S", "d,\ufffd", "e" * 201 + ",S", "f,S", " ,S"]
    path = land("t.csv", text + "".join(f"{T},1,1,{row}\n" for row in rows))
    trades, rejected = read_rows(path, symbol=None)
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


def test_an_error_of_the_machine_is_not_reported_as_an_error_of_the_file(
    land: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original error is raised, so that the file is tried again."""
    path = land("t.csv", CSV)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(reader, "detect_kind", fail)
    with pytest.raises(OSError, match="Too many open files"):
        read_rows(path)

    def surprise(*_: object) -> None:
        raise struct.error("\x1b[31mwhat")

    monkeypatch.setattr(reader, "detect_kind", surprise)
    with pytest.raises(BadFileError, match=r"t\.csv: cannot be read \(error: .x1b\[31mwhat\)"):
        read_rows(path)
