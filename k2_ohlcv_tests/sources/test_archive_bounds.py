"""An archive that unpacks without end is refused. It never fills memory or disk."""

import gzip
import zipfile
from pathlib import Path

import pytest

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.sources import compression
from k2_ohlcv.sources.compression import MAX_UNPACKED_RATIO, open_decompressed


def pack(folder: Path, kind: str, content: bytes) -> Path:
    path = folder / f"trades.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(content))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("trades.csv", content)
    return path


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_an_archive_beyond_the_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Zeros unpack to 1,000 times their size."""
    monkeypatch.setattr(compression, "MIN_UNPACKED_LIMIT", 100_000)
    path = pack(tmp_path, kind, b"0" * 10_000_000)
    read: list[int] = []
    with (
        pytest.raises(BadFileError, match=f"more than {MAX_UNPACKED_RATIO} times its size"),
        open_decompressed(path) as stream,
    ):
        read.extend(len(part) for part in iter(lambda: stream.read(10_000), b""))
    assert 0 < sum(read) <= MAX_UNPACKED_RATIO * path.stat().st_size


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_a_small_archive_and_a_plain_file_have_no_such_bound(tmp_path: Path, kind: str) -> None:
    content = b"0" * 1_000_000
    path = pack(tmp_path, kind, content)
    plain = tmp_path / "plain.csv"
    plain.write_bytes(content)
    for each in (path, plain):
        with open_decompressed(each) as stream:
            assert compression.read_all(stream, 2 * len(content)) == content
