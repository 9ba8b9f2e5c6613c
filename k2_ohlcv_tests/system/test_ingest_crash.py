"""Ingestions in processes that SIGKILL ends at any moment, or that run at the same time."""

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

#: Runs an ingestion that kills itself at a hook, when this is reached for a given number of times.
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
before(rejected, "append_new", "trades are committed")
ingest(
    Lake.open(Settings.from_environ({"K2_HOME": home})), [Path(file)], exchange="E", symbol="S",
    workspace=Path(home, "work"), batch_rows=int(sys.argv[5]), progress=lambda event, rows: hook(event),
)
"""


def csv_text(rows: range, header: str = "timestamp,price,size,id") -> str:
    lines = [f"{T + (i * 7919) % 1000 * 300},{i % 50 + 1},1,{i}" for i in rows]
    return "\n".join([header, *lines, f"{T},0,1,{rows.start}-zero", "broken"])


def start(home: Path, file: Path, point: str = "never", count: int = 1) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home), str(file), point, str(count), str(BATCH_ROWS)],
        stderr=subprocess.PIPE,
    )


def read_tables(home: Path) -> tuple[list[Any], list[Any]]:
    lake = Lake.open(Settings.from_environ({"K2_HOME": str(home)}))
    trades = lake.trades().scan().to_arrow().drop_columns(["ingested_at"]).to_pylist()
    refused = lake.rejected().scan().to_arrow().drop_columns(["rejected_at"]).to_pylist()
    lake.catalog.close()
    return sorted(tuple(t.values()) for t in trades), sorted(tuple(map(str, r.values())) for r in refused)


@pytest.mark.parametrize("header", ["timestamp,price,size,id", "timestamp,price,size,other"])
def test_an_ingestion_that_was_killed_at_any_point_is_completed_by_the_next(
    tmp_path: Path, header: str
) -> None:
    """With and without ids, the tables are as after one run. Folders of killed processes are removed."""
    file = tmp_path / "t.csv"
    file.write_text(csv_text(range(2000), header))
    start(tmp_path / "whole", file).communicate(timeout=120)
    expected = read_tables(tmp_path / "whole")
    assert (len(expected[0]), len(expected[1])) == (2000, 2)
    points = [("read", 1), ("files are written", 1), ("manifests are written", 2), ("committed", 2)]
    points += [("trades are committed", 1)]
    home = tmp_path / "killed"
    for point, count in points:  # each process continues from where the last one was killed
        process = start(home, file, point, count)
        errors = process.communicate(timeout=120)[1].decode()
        assert process.returncode == -signal.SIGKILL, errors
    options: dict[str, Any] = {"exchange": "E", "symbol": "S", "workspace": home / "work"}
    lake = Lake.open(Settings.from_environ({"K2_HOME": str(home)}))
    report = ingest(lake, [file], **options)
    assert (report.read, report.rejected) == (2002, 2)
    assert read_tables(home) == expected
    assert [p.name for p in (home / "work").iterdir()] == [".lock"]


def test_simultaneous_ingestions_of_overlapping_files_store_each_trade_once(tmp_path: Path) -> None:
    """All three processes succeed, and no trade is stored twice."""
    home, files = tmp_path / "home", []
    for i, rows in enumerate((range(3000), range(1500, 4500), range(3000))):
        files.append(tmp_path / f"{i}.csv")
        files[-1].write_text(csv_text(rows))
    Lake.open(Settings.from_environ({"K2_HOME": str(home)})).trades()
    processes = [start(home, file) for file in files]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    trades, refused = read_tables(home)
    assert sorted(int(t[2]) for t in trades) == list(range(4500))
    assert len(refused) == 6


def test_two_simultaneous_first_ingestions_both_succeed(tmp_path: Path) -> None:
    """Neither the catalog nor a table exists before."""
    home, file = tmp_path / "home", tmp_path / "t.csv"
    file.write_text(csv_text(range(300)))
    processes = [start(home, file) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert len(read_tables(home)[0]) == 300
