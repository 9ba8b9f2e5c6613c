"""Landing files that a test writes."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def land(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file with a text, compressed as its name says. Returns its path."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(path.stem + ".csv", data)
        else:
            path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return path

    return write
