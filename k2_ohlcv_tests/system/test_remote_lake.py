"""A lake as in production: tables on S3, the catalog in Postgres or behind REST. All operations in turn."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from k2_ohlcv.cli.demo import tables_at
from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine.private_metadata import FOLDER
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.operations.validate import validate
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.servers import S3, configure, postgres_server
from k2_ohlcv_tests.support.trades import make_trade

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("s3")]

MINUTE = find_timeframe("1m")
MARKET = ("E", "S")
FIRST = datetime(2024, 2, 20, tzinfo=UTC)
DAYS = 12
#: One partitioned by day and one by month: the others are as the first.
TABLES = (MINUTE, find_timeframe("1d"))
POLICY = Settings.from_environ({"K2_RETENTION_1M": "7d", "K2_SNAPSHOT_DAYS": "0"}).retention

HISTORY = [
    make_trade(i, FIRST + timedelta(minutes=5 * i), i % 7 + 100, "0.5", market=MARKET)
    for i in range(288 * DAYS)
]
LATE = make_trade(10_000, FIRST + 10 * DAY + timedelta(minutes=91), market=MARKET)

#: Refreshes one table. Before its first commit it is killed, or says so and waits for a line.
PROGRAM = """
import os, signal, sys
from pyiceberg.table import Table
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv.settings import Settings

commit = Table._do_commit

def stop(table, *arguments, **named):
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    Table._do_commit = commit
    print("ready", flush=True)
    sys.stdin.readline()
    return commit(table, *arguments, **named)

Table._do_commit = stop
settings = Settings.from_environ()
with open_engine(settings) as engine:
    refresh(Lake.open(settings), engine, find_timeframe("1m"))
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A Postgres server's URI."""
    with postgres_server() as uri:
        yield uri


@pytest.fixture(params=["sql", pytest.param("rest", marks=pytest.mark.rest)])
def catalog(request: pytest.FixtureRequest, bucket: str) -> dict[str, str]:
    """The properties of each catalog in turn, without those of S3."""
    if request.param == "rest":
        return {"type": "rest", "uri": request.getfixturevalue("rest_uri")}
    uri = request.getfixturevalue("postgres")
    return {"type": "sql", "uri": uri, "warehouse": f"s3://{bucket}/warehouse"}


@pytest.fixture
def settings(tmp_path: Path, s3: S3, catalog: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an empty lake, said by the catalog's properties alone."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "K2_"))]:
        monkeypatch.delenv(name)
    configure(monkeypatch, {**catalog, **s3.properties()})
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    lakes.empty_catalog(Lake.open(Settings.from_environ()))
    return Settings.from_environ()


def add_trades(lake: Lake, folder: Path, trades: list[Trade]) -> int:
    """Ingest trades from a file; gives how many were new."""
    path = folder / "trades.csv"
    rows = [f"{t.timestamp.isoformat()},{t.price},{t.quantity},{t.trade_id}" for t in trades]
    path.write_text("\n".join(["timestamp,price,quantity,trade_id", *rows, ""]))
    exchange, symbol = MARKET
    return ingest(lake, [path], exchange=exchange, symbol=symbol, workspace=folder / "work").added


def stored_bytes(lake: Lake) -> int:
    tables = [lake.trades(), *(lake.candles(each) for each in TABLES)]
    return sum(sum(lakes.files_of(table).values()) for table in tables)


def copies(lake: Lake) -> list[str]:
    """The private copies of metadata that lie beside the trades."""
    return [path for path in lakes.files_of(lake.trades()) if f"/{FOLDER}/" in path]


def test_ingest_refresh_late_trade_retention_and_validate(settings: Settings, tmp_path: Path) -> None:
    """Every table is equal to its trades, space is freed as said, and no copy of metadata stays."""
    lake = Lake.open(settings)
    assert add_trades(lake, tmp_path, HISTORY) == len(HISTORY)
    assert tables_at(lake).startswith("s3://")
    with open_engine(settings) as engine:
        for each in TABLES:
            refresh(lake, engine, each)
        lakes.assert_equal_to_trades(lake, HISTORY, TABLES)
        assert add_trades(lake, tmp_path, [*HISTORY[-3:], LATE]) == 1
        for each in TABLES:
            counts = refresh(lake, engine, each).counts
            assert counts.added + counts.changed == 1
        lakes.assert_equal_to_trades(lake, [*HISTORY, LATE], TABLES)
        before = stored_bytes(lake)
        tables = retention(lake, POLICY, apply=True).tables
        freed = sum(table.bytes_freed for table in tables)
        assert freed > 0
        assert before - stored_bytes(lake) == freed
        kept_from = next(table.cutoff for table in tables if table.table == MINUTE.table)
        assert kept_from is not None
        wanted = [c for c in aggregate([*HISTORY, LATE], MINUTE) if c.window_start >= kept_from]
        assert lakes.read_candles(lake, MINUTE) == wanted
        found = validate(lake, engine, MINUTE, [Interval(kept_from, FIRST + DAYS * DAY)])
        (compared,) = [one for one in found if one.check == "reconciles_with_trades"]
        assert compared.examined == len(wanted)
        assert not [one for one in found if one.failures and one.check not in {"gaps", "freshness"}]
    assert not copies(lake)


def start(how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_refresh_and_two_at_once_end_right(settings: Settings, tmp_path: Path) -> None:
    """The killed one's copy of metadata stays until it is old; those of the others go with them."""
    lake = Lake.open(settings)
    add_trades(lake, tmp_path, HISTORY[:300])
    killed = start("kill")
    said = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, said
    assert lakes.read_candles(lake, MINUTE) == []
    left = copies(lake)
    assert left
    both = [start("wait"), start("wait")]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    assert len(copies(lake)) == len(left) + 2
    add_trades(lake, tmp_path, HISTORY[:400])
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [("conflict" in output) for output, _ in outputs].count(True) == 1, outputs
    lakes.assert_equal_to_trades(lake, HISTORY[:400], [MINUTE])
    with open_engine(settings) as engine:
        assert not refresh(lake, engine, MINUTE).partitions
    assert copies(lake) == left
