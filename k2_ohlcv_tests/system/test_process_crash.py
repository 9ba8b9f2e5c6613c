"""Processes killed in the middle, and processes side by side: the tables come out as if nothing had been."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

pytestmark = pytest.mark.system

AT = datetime(2024, 2, 29, 12, tzinfo=UTC)

#: Rebuilds all tables as a process of its own. KILL_AT says before which commit it dies, or after (+).
PROGRAM = """
import os, signal, sys
from k2_ohlcv.operations import reconcile
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings

kill_at, real, calls = sys.argv[1], reconcile.commit_change, []

def commit(table, change):
    calls.append(1)
    if kill_at == f"{len(calls)}-":
        reconcile.commit_change = None
        from pyiceberg.table import Transaction
        Transaction.commit_transaction = lambda self: os.kill(os.getpid(), signal.SIGKILL)
    done = real(table, change)
    if kill_at == f"{len(calls)}+":
        os.kill(os.getpid(), signal.SIGKILL)
    return done

reconcile.commit_change = commit
settings = Settings.from_environ()
lake = Lake.open(settings)
names = sys.argv[2].split(",")
with open_engine(settings) as engine:
    for each in TIMEFRAMES:
        if each.name in names:
            for _ in range(int(sys.argv[3])):
                reconcile.rebuild(lake, engine, each)
"""


def start(home: Path, kill_at: str = "", names: str = "", times: int = 1) -> subprocess.Popen[str]:
    names = names or ",".join(t.name for t in TIMEFRAMES)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kill_at, names, str(times)],
        env=os.environ | {"K2_HOME": str(home), "SPARK_REMOTE": ""},
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> None:
    _, said = process.communicate(timeout=180)
    assert process.returncode == code, said


def some_trades(first: int = 0) -> list[Trade]:
    return [
        make_trade(i, AT + timedelta(minutes=7 * i), i % 5 + 1, 1, market=("X", "Y"))
        for i in range(first, first + 300)
    ]


@pytest.mark.parametrize(
    "kill_at", ["1-", "2+", "5-"], ids=["before a commit", "between tables", "in the last"]
)
def test_a_killed_rebuild_is_finished_by_the_next(tmp_path: Path, kill_at: str) -> None:
    """With everything written but the commit, or between two tables: readable then, and right after."""
    lake = lakes.open_lake(tmp_path)
    lakes.add_trades(lake, some_trades())
    killed = start(tmp_path, kill_at)
    ended(killed, -signal.SIGKILL)
    done = int(kill_at[0]) - (kill_at[1] == "-")
    lakes.assert_equal_to_trades(lake, some_trades(), TIMEFRAMES[:done])
    for each in TIMEFRAMES[done:]:
        assert lakes.read_candles(lake, each) == []
    again = start(tmp_path)
    ended(again)
    lakes.assert_equal_to_trades(lake, some_trades())


def test_rebuilds_of_one_table_at_once_both_end_right(tmp_path: Path) -> None:
    """Two processes rebuild while a third appends: both end, and a last rebuild finds nothing wrong."""
    lake = lakes.open_lake(tmp_path)
    lakes.add_trades(lake, some_trades())
    two = [start(tmp_path, names="1m,1d", times=4) for _ in range(2)]
    everything = some_trades()
    for batch in range(1, 5):
        more = some_trades(batch * 300)
        lakes.add_trades(Lake(lake.catalog), more)
        everything += more
    for process in two:
        ended(process)
    lakes.assert_equal_to_trades(lake, everything, [find_timeframe("1m"), find_timeframe("1d")])
