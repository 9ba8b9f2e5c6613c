"""The whole chain on Dagster's own daemon: files land, and all tables follow; nobody launches anything."""

import csv
import gzip
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.lake.metadata.table_stats import trades_status
from k2_ohlcv.sources import sample
from k2_ohlcv_tests.support import lakes

# Dagster 1.13 reads a pydantic attribute that pydantic 2.14 calls deprecated.
pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]

ROOT = Path(__file__).parents[2]
BATCHES = 5
#: The sensors look every so many seconds, and tables are refreshed before they are a minute behind.
HASTE = {"K2_SENSOR_SECONDS": "3", "K2_REFRESH_SECONDS": "60"}
#: Between two files: long enough that the first is being ingested when the last one lands.
PAUSE = 5.0
#: So many files land before the tables are first made, and the others on tables that are up to date.
FIRST = 3
#: Until each of the two is done, for the busiest machine: it takes two minutes on one that has nothing else
#: to do, of which one is the tables' own patience.
PATIENCE = 300.0


def rows() -> list[list[str]]:
    with gzip.open(sample.sample_trades_file(), "rt") as file:
        return list(csv.reader(file))


def batches(lines: list[list[str]]) -> list[list[list[str]]]:
    """The lines in parts, cut between two moments: ids are made from a trade's place in its moment."""
    cuts = [0]
    for number in range(1, BATCHES):
        cut = len(lines) * number // BATCHES
        while lines[cut][0] == lines[cut - 1][0]:
            cut += 1
        cuts.append(cut)
    return [lines[start:end] for start, end in zip(cuts, [*cuts[1:], len(lines)], strict=True)]


def land(home: Path, number: int, header: list[str], lines: list[list[str]]) -> None:
    """Put a file where trades wait, as a careless program would: written in place, piece by piece."""
    folder = home.joinpath("landing", *sample.MARKET)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{number}.csv").open("w", newline="") as file:
        csv.writer(file).writerow(header)
        for start in range(0, len(lines), 5000):
            csv.writer(file).writerows(lines[start : start + 5000])
            file.flush()
            time.sleep(0.1)


@contextmanager
def dagster(home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Webserver and daemon, as `make dev` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    environment |= {
        "K2_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "K2_LOG": "json",
        "SPARK_REMOTE": "",
        **HASTE,
    }
    with log.open("wb") as said:
        command = [sys.executable, "-m", "k2_ohlcv.cli.dev", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            yield process
        finally:
            process.terminate()  # it ends those that it started
            process.wait(60)


def is_current(lake: Lake, expected: int) -> bool:
    """Whether all that landed is in trades, and every table has reached it."""
    if trades_status(lake).rows < expected:
        return False
    return not any(TableLag.measure(lake, one).is_stale for one in TIMEFRAMES)


def trades(lake: Lake) -> list[Trade]:
    fields = ("exchange", "symbol", "trade_id", "timestamp", "price", "quantity")
    stored = lake.trades().scan(selected_fields=fields).to_arrow().to_pylist()
    return [Trade(**row) for row in stored]


def of_lines(lines: list[list[str]]) -> list[tuple[datetime, Decimal, Decimal]]:
    """Time, price and quantity of each line that is a trade: a few have no quantity."""
    found = [(datetime.fromtimestamp(int(at), UTC), Decimal(p), Decimal(q)) for at, p, q in lines]
    return sorted(one for one in found if one[2])


def rows_told(instance: dg.DagsterInstance, one: Timeframe) -> int:
    """What the graph says a table holds: the sum of its partitions' newest row counts."""
    told: dict[str | None, object] = {}
    records = instance.fetch_materializations(dg.AssetKey(one.table), limit=1000).records
    for record in reversed(records):  # oldest first
        if record.asset_materialization:
            count = record.asset_materialization.metadata["dagster/partition_row_count"].value
            told[record.partition_key] = count
    return sum(int(str(count)) for count in told.values())


@pytest.mark.timeout(660)
def test_tables_follow_what_lands(tmp_path: Path) -> None:
    """Five files land one after the other; sensors alone bring all five tables to the reference, twice."""
    header, *lines = rows()
    wanted, parts = of_lines(lines), list(enumerate(batches(lines)))
    home, log = tmp_path / "home", tmp_path / "dagster.log"
    lake = lakes.open_lake(home)
    with dagster(home, log) as process:
        expected = 0
        for some in (parts[:FIRST], parts[FIRST:]):
            deadline = time.monotonic() + PATIENCE
            for number, batch in some:
                land(home, number, header, batch)
                expected += len(of_lines(batch))
                time.sleep(PAUSE)
            while not is_current(lake, expected):
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(3)
        instance = dg.DagsterInstance.from_config(str(home / "dagster"))
        with instance:
            failed = instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
            jobs = {run.job_name for run in instance.get_runs()}
            told = {one.name: rows_told(instance, one) for one in TIMEFRAMES}
    assert not failed
    assert jobs == {"ingest_files", *(f"refresh_{one.name}" for one in TIMEFRAMES)}
    stored = trades(lake)
    assert sorted((t.timestamp, t.price, t.quantity) for t in stored) == wanted, "every trade, once"
    for one in TIMEFRAMES:
        candles = aggregate(stored, one)
        assert lakes.read_candles(lake, one) == candles, one.name
        assert told[one.name] == len(candles), "the graph says what is there"
