"""Lakes of earlier versions, packed as archives, and the candles that they must contain.

Iceberg's files refer to each other by absolute path. Each lake is therefore unpacked at the path where it was
created. A lock keeps other test processes away from that path.
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
#: Where the lakes were created. `tempfile.gettempdir()` differs from machine to machine.
_PLACE = Path("/tmp")
_READ = {str: str, int: int, Decimal: Decimal, date: date.fromisoformat, datetime: datetime.fromisoformat}


@contextmanager
def unpacked(name: str) -> Iterator[Path]:
    """The home of a lake of an earlier version, at the path where it was created."""
    home = _PLACE / f"k2-{name}"
    with _locked(home.with_name(f"{home.name}.lock")):
        shutil.rmtree(home, ignore_errors=True)  # a killed process leaves its copy
        try:
            with tarfile.open(_FOLDER / f"{name}.tar.xz") as archive:
                archive.extractall(_PLACE, filter="data")
            yield home
        finally:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file. The file is never removed: a waiting process already has it open."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY
        )  # some systems refuse to create over another user's file in /tmp
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def candles(name: str) -> dict[str, list[Candle]]:
    """The candles that a lake must contain, by timeframe and key, from the reference aggregation."""
    kinds = {field.name: _READ[field.type] for field in fields(Candle)}  # type: ignore[index] # real types
    by_timeframe: dict[str, list[Candle]] = {}
    with (_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            values: dict[str, Any] = {column: read(row[column]) for column, read in kinds.items()}
            by_timeframe.setdefault(row["timeframe"], []).append(Candle(**values))
    return by_timeframe
