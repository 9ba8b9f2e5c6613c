"""Processes that use S3 from several threads, and end. PyArrow shuts its S3 client down at the exit."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.daily_candles import trades_of_days
from k2_ohlcv_tests.support.servers import S3, configure

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("s3")]

#: A thread for each candle table commits a day at a time. The process ends as the argument says.
PROGRAM = """
import sys, threading, time
from datetime import UTC, datetime
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.daily_candles import trades_of_days

how, days = sys.argv[1], int(sys.argv[2])
lake = Lake.open(Settings.from_environ())
began = threading.Barrier(len(TIMEFRAMES) + 1)

def commit(timeframe):
    for day in range(1, days + 1):
        lakes.commit_candles(
            lake.candles(timeframe), timeframe, trades_of_days(day)[-3:], datetime.now(UTC)
        )
        if day == 1:
            began.wait()

threads = [threading.Thread(target=commit, args=(each,), daemon=how == "leave") for each in TIMEFRAMES]
for thread in threads:
    thread.start()
began.wait()
print("began", flush=True)
if how == "join":
    for thread in threads:
        thread.join()
if how == "wait":
    time.sleep(600)
"""
#: Seconds. A process that does not end hangs for ever.
BOUND = 300


@pytest.fixture
def lake(tmp_path: Path, s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """An empty lake on S3, which other processes open too."""
    uri = f"sqlite:///{tmp_path / 'catalog.db'}?timeout=60"
    configure(
        monkeypatch, {"type": "sql", "uri": uri, "warehouse": f"s3://{bucket}/warehouse", **s3.properties()}
    )
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    lake = Lake.open(Settings.from_environ())
    for timeframe in TIMEFRAMES:
        lake.writable_candles(timeframe)
    return lake


def start(how: str, days: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, how, str(days)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_threads_commit_and_the_process_ends(lake: Lake) -> None:
    """All commits are there."""
    process = start("join", 4)
    output, errors = process.communicate(timeout=BOUND)
    assert (process.returncode, output) == (0, "began\n"), errors
    for timeframe in TIMEFRAMES:
        assert lakes.read_candles(lake, timeframe) == aggregate(trades_of_days(4), timeframe)


@pytest.mark.parametrize("how", ["leave", "wait"])
def test_a_process_ends_in_the_middle_of_commits(lake: Lake, how: str) -> None:
    """Daemon threads are at work at the exit, or SIGTERM ends the process. The tables have whole days."""
    process = start(how, 1000)
    assert process.stdout.readline() == "began\n"
    if how == "wait":
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=BOUND)
    assert process.returncode == (-signal.SIGTERM if how == "wait" else 0), errors
    for timeframe in TIMEFRAMES:
        days = len(lake.candles(timeframe).snapshots())
        assert lakes.read_candles(lake, timeframe) == aggregate(trades_of_days(days), timeframe)
