"""Lakes that earlier versions made, packed as files, and the candles that belong in them.

Iceberg's files name each other by absolute paths, so each lake was made at a path that any machine can have,
and is unpacked there for the length of a test. A lock keeps other test processes from that path meanwhile.
"""

import csv
import fcntl
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from k2_ohlcv.domain.candle import Candle

_FOLDER = Path(__file__).parent
#: Where lakes were made. Not `tempfile.gettempdir()`, which differs from machine to machine.
_PLACE = Path("/tmp")
_READ = {str: str, int: int, Decimal: Decimal, date: date.fromisoformat, datetime: datetime.fromisoformat}


@contextmanager
def unpacked(name: str) -> Iterator[Path]:
    """The home of a lake, as an earlier version left it, at the path where it was made."""
    home = _PLACE / f"k2-{name}"
    with _locked(home.with_name(f"{home.name}.lock")):
        shutil.rmtree(home, ignore_errors=True)  # a process that was killed leaves its own behind
        try:
            with tarfile.open(_FOLDER / f"{name}.tar.xz") as archive:
                archive.extractall(_PLACE, filter="data")
            yield home
        finally:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file. It stays: whoever waits for it has it open already."""
    try:
        held = os.open(path, os.O_RDONLY)  # some systems refuse to create over another user's file in /tmp
    except FileNotFoundError:
        held = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def candles(name: str) -> dict[str, list[Candle]]:
    """The candles that belong in a lake, by timeframe, each list by key: the reference aggregation's."""
    kinds = {field.name: _READ[field.type] for field in fields(Candle)}  # type: ignore[index] # real types
    found: dict[str, list[Candle]] = {}
    with (_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            values: dict[str, Any] = {column: read(row[column]) for column, read in kinds.items()}
            found.setdefault(row["timeframe"], []).append(Candle(**values))
    return found
