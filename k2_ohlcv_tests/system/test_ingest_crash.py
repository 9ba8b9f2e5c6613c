"""Ingestion killed (SIGKILL) at any moment, and two at once, as whole processes."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.settings import Settings

pytestmark = pytest.mark.system

T = 1723161255
BATCH_ROWS = 500

# Runs an ingestion that kills itself at the given moment: the name of a hook, and the how-manieth time.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.lake import append, rejected
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings
from pyiceberg.table import Transaction

home, file, point, left = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

def hook(name):
    global left
    if name == point:
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

def before(owner, attribute, name):
    real = getattr(owner, attribute)
    def hooked(*args, **kwargs):
        hook(name)
        return real(*args, **kwargs)
    setattr(owner, attribute, hooked)

before(append, "commit_change", "files are written")
before(Transaction, "commit_transaction", "manifests are written")
before(rejected, "append_rejected", "trades are in")
ingest(
    Lake.open(Settings.from_environ({"K2_HOME": home})), [Path(file)], exchange="E", symbol="S",
    workspace=Path(home, "work"), batch_rows=int(sys.argv[5]), progress=lambda event, rows: hook(event),
)
"""


def text(rows: range, header: str = "timestamp,price,size,id") -> str:
    lines = [f"{T + (i * 7919) % 1000 * 300},{i % 50 + 1},1,{i}" for i in rows]
    return "\n".join([header, *lines, f"{T},0,1,{rows.start}-zero", "broken"])


def start(home: Path, file: Path, point: str = "never", count: int = 1) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home), str(file), point, str(count), str(BATCH_ROWS)],
        stderr=subprocess.PIPE,
    )


def contents(home: Path) -> tuple[list[Any], list[Any]]:
    lake = Lake.open(Settings.from_environ({"K2_HOME": str(home)}))
    trades = lake.trades().scan().to_arrow().drop_columns(["ingested_at"]).to_pylist()
    refused = lake.rejected().scan().to_arrow().drop_columns(["rejected_at"]).to_pylist()
    lake.catalog.close()
    return sorted(tuple(t.values()) for t in trades), sorted(tuple(map(str, r.values())) for r in refused)


@pytest.mark.parametrize("header", ["timestamp,price,size,id", "timestamp,price,size,other"])
def test_killed_anywhere_and_run_again_gives_the_same_tables(tmp_path: Path, header: str) -> None:
    """With ids and without: before, between and after commits, and the leftovers of the dead are gone."""
    file = tmp_path / "t.csv"
    file.write_text(text(range(2000), header))
    start(tmp_path / "whole", file).communicate(timeout=120)
    whole = contents(tmp_path / "whole")
    assert (len(whole[0]), len(whole[1])) == (2000, 2)
    points = [("read", 1), ("files are written", 1), ("manifests are written", 2), ("committed", 2)]
    points += [("trades are in", 1)]
    home = tmp_path / "killed"
    for point, count in points:  # each goes on from where the one before was killed
        process = start(home, file, point, count)
        errors = process.communicate(timeout=120)[1].decode()
        assert process.returncode == -signal.SIGKILL, errors
    options: dict[str, Any] = {"exchange": "E", "symbol": "S", "workspace": home / "work"}
    lake = Lake.open(Settings.from_environ({"K2_HOME": str(home)}))
    report = ingest(lake, [file], **options)
    assert (report.read, report.rejected) == (2002, 2)
    assert contents(home) == whole
    assert [p.name for p in (home / "work").iterdir()] == [".lock"]


def test_two_ingestions_of_overlapping_files_at_once(tmp_path: Path) -> None:
    """Both end, and no trade is there twice."""
    home, files = tmp_path / "home", []
    for i, rows in enumerate((range(3000), range(1500, 4500), range(3000))):
        files.append(tmp_path / f"{i}.csv")
        files[-1].write_text(text(rows))
    Lake.open(Settings.from_environ({"K2_HOME": str(home)})).trades()
    processes = [start(home, file) for file in files]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    trades, refused = contents(home)
    assert sorted(int(t[2]) for t in trades) == list(range(4500))
    assert len(refused) == 6


def test_a_first_ingestion_beside_another(tmp_path: Path) -> None:
    """Where neither the catalog nor a table is there yet."""
    home, file = tmp_path / "home", tmp_path / "t.csv"
    file.write_text(text(range(300)))
    processes = [start(home, file) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert len(contents(home)[0]) == 300
