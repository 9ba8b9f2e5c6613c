"""Rebuilds in processes that are killed or that run at the same time leave right tables."""

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

#: Rebuilds tables in its own process. The first argument is the commit before (-) or after (+) its kill.
PROGRAM = """
import os, signal, sys
from k2_ohlcv.operations import plan_run, reconcile
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings

kill_at, real, calls = sys.argv[1], plan_run.commit_change, []

def commit(table, change):
    calls.append(1)
    if kill_at == f"{len(calls)}-":
        plan_run.commit_change = None
        from pyiceberg.table import Transaction
        Transaction.commit_transaction = lambda self: os.kill(os.getpid(), signal.SIGKILL)
    done = real(table, change)
    if kill_at == f"{len(calls)}+":
        os.kill(os.getpid(), signal.SIGKILL)
    return done

plan_run.commit_change = commit
settings = Settings.from_environ()
lake = Lake.open(settings)
names = sys.argv[2].split(",")
with open_engine(settings) as engine:
    for timeframe in TIMEFRAMES:
        if timeframe.name in names:
            for _ in range(int(sys.argv[3])):
                reconcile.rebuild(lake, engine, timeframe)
"""


def start(home: Path, kill_at: str = "", names: str = "", times: int = 1) -> subprocess.Popen[str]:
    names = names or ",".join(t.name for t in TIMEFRAMES)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kill_at, names, str(times)],
        env=os.environ | {"K2_HOME": str(home), "SPARK_REMOTE": ""},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_exit(process: subprocess.Popen[str], code: int = 0) -> None:
    _, errors = process.communicate(timeout=180)
    assert process.returncode == code, errors


def make_trades(first: int = 0) -> list[Trade]:
    return [
        make_trade(i, AT + timedelta(minutes=7 * i), i % 5 + 1, 1, market=("X", "Y"))
        for i in range(first, first + 300)
    ]


@pytest.mark.parametrize(
    "kill_at", ["1-", "2+", "5-"], ids=["before a commit", "between tables", "in the last table"]
)
def test_a_killed_rebuild_is_finished_by_the_next(tmp_path: Path, kill_at: str) -> None:
    """Killed before a commit or between tables, the lake is readable. The next rebuild completes it."""
    lake = lakes.open_lake(tmp_path)
    lakes.add_trades(lake, make_trades())
    wait_for_exit(start(tmp_path, kill_at), -signal.SIGKILL)
    done = int(kill_at[0]) - (kill_at[1] == "-")
    lakes.assert_equal_to_trades(lake, make_trades(), TIMEFRAMES[:done])
    for timeframe in TIMEFRAMES[done:]:
        assert lakes.read_candles(lake, timeframe) == []
    wait_for_exit(start(tmp_path))
    lakes.assert_equal_to_trades(lake, make_trades())


def test_two_simultaneous_rebuilds_of_a_table_both_succeed(tmp_path: Path) -> None:
    """Two processes rebuild while this one appends. The tables equal all trades in the end."""
    lake = lakes.open_lake(tmp_path)
    lakes.add_trades(lake, make_trades())
    processes = [start(tmp_path, names="1m,1d", times=4) for _ in range(2)]
    given_trades = make_trades()
    for batch in range(1, 5):
        more = make_trades(batch * 300)
        lakes.add_trades(Lake(lake.catalog), more)
        given_trades += more
    for process in processes:
        wait_for_exit(process)
    lakes.assert_equal_to_trades(lake, given_trades, [find_timeframe("1m"), find_timeframe("1d")])
