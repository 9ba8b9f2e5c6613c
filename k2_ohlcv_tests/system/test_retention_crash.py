"""Retention in processes that are killed or that run at the same time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.daily_candles import BOUND, FIRST, put_candles, trades_of_days

pytestmark = pytest.mark.system

#: Applies retention. The first argument names a step and the call of that step that kills the process.
PROGRAM = """
import os, signal, sys
from datetime import datetime, UTC
from pyiceberg.table import Table
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance.table_files import TableFiles
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.settings import Settings

which, _, number = sys.argv[1].partition(":")
calls = []

def kill_in(owner, name):
    real = getattr(owner, name)
    def step(*args, **options):
        calls.append(1)
        if len(calls) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    setattr(owner, name, step)

if which == "commit":
    kill_in(Table, "_do_commit")
elif which == "remove":
    kill_in(TableFiles, "_remove_file")
report = retention(
    Lake.open(Settings.from_environ()),
    Settings.from_environ({"K2_RETENTION_1M": "30d", "K2_SNAPSHOT_DAYS": "0"}).retention,
    apply=True,
    as_of=datetime.fromisoformat(sys.argv[2]),
    timeframes=[find_timeframe("1m")],
)
print(len(report.tables[0].partitions), report.tables[0].files_removed)
"""


def start(home: Path, kill_at: str = "") -> subprocess.Popen[str]:
    as_of = (BOUND + (BOUND - FIRST) * 3).isoformat()  # thirty days after the line
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kill_at, as_of],
        env=os.environ | {"K2_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_exit(process: subprocess.Popen[str], code: int = 0) -> str:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    return output.splitlines()[-1] if output else ""


def list_parquet_files(lake: Lake) -> set[str]:
    folder = Path(lake.candles(MINUTE).location().removeprefix("file://"))
    return {str(f) for f in folder.rglob("*.parquet")}


def age_files(lake: Lake) -> None:
    """Make all files of the table old enough to be orphans."""
    folder = Path(lake.candles(MINUTE).location().removeprefix("file://"))
    old = time.time() - ORPHAN_AGE.total_seconds() - 60
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (old, old))


def assert_applied(lake: Lake) -> None:
    """Only candles past their retention are dropped, with all files that only they needed."""
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades_of_days(20)[30:], MINUTE)
    assert list_parquet_files(lake) == {
        p.removeprefix("file://") for p in lakes.list_data_files(lake.candles(MINUTE))
    }


@pytest.fixture
def filled(lake: Lake) -> Lake:
    lakes.add_trades(lake, trades_of_days(20))
    put_candles(lake, trades_of_days(10))
    put_candles(lake, trades_of_days(20)[30:])
    return lake


@pytest.mark.parametrize("kill_at", ["commit:1", "commit:2", "remove:1", "remove:5"])
def test_a_killed_run_is_finished_by_the_next(filled: Lake, tmp_path: Path, kill_at: str) -> None:
    """After a kill at any step the table is readable. The next run completes the work.

    Snapshots are five days old when they expire. Their files are then old enough to be orphans.
    """
    wait_for_exit(start(tmp_path, kill_at), -signal.SIGKILL)
    table = filled.candles(MINUTE)
    everything, remaining = aggregate(trades_of_days(20), MINUTE), aggregate(trades_of_days(20)[30:], MINUTE)
    assert lakes.read_candles(filled, MINUTE) == (everything if kill_at == "commit:1" else remaining)
    for snapshot in table.snapshots():
        table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()
    age_files(filled)
    wait_for_exit(start(tmp_path))
    assert_applied(filled)
    assert wait_for_exit(start(tmp_path)) == "0 0"


def test_two_simultaneous_runs_both_succeed(filled: Lake, tmp_path: Path) -> None:
    """No partition is dropped or counted twice."""
    outputs = [wait_for_exit(process) for process in [start(tmp_path), start(tmp_path)]]
    assert sum(int(line.split()[0]) for line in outputs) == 10
    assert_applied(filled)
