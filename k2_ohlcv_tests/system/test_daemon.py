"""Dagster's daemon alone brings all tables up to date with the files that land."""

import csv
import gzip
import time
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
from k2_ohlcv_tests.support.dagster_ui import start_dagster

pytestmark = pytest.mark.system

BATCHES = 5
#: Sensors tick every three seconds. Tables are refreshed before they are stale for a minute.
FAST_SETTINGS = {"K2_SENSOR_SECONDS": "3", "K2_REFRESH_SECONDS": "60"}
#: Seconds between two files. The first file is being ingested when the last one lands.
PAUSE = 5.0
#: Files that land before the first refresh. The others land on tables that are up to date.
FIRST = 3
#: Seconds allowed for each part. An idle machine takes two minutes, one of them for freshness.
TIME_LIMIT = 300.0


def read_sample() -> list[list[str]]:
    with gzip.open(sample.sample_trades_file(), "rt") as file:
        return list(csv.reader(file))


def split_into_batches(lines: list[list[str]]) -> list[list[list[str]]]:
    """Split the lines between two moments, because ids depend on a trade's place in its moment."""
    cuts = [0]
    for number in range(1, BATCHES):
        cut = len(lines) * number // BATCHES
        while lines[cut][0] == lines[cut - 1][0]:
            cut += 1
        cuts.append(cut)
    return [lines[start:end] for start, end in zip(cuts, [*cuts[1:], len(lines)], strict=True)]


def land_file(home: Path, number: int, header: list[str], lines: list[list[str]]) -> None:
    """Write a file into the landing folder piece by piece, as a careless program would."""
    folder = home.joinpath("landing", *sample.MARKET)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{number}.csv").open("w", newline="") as file:
        csv.writer(file).writerow(header)
        for start in range(0, len(lines), 5000):
            csv.writer(file).writerows(lines[start : start + 5000])
            file.flush()
            time.sleep(0.1)


def is_current(lake: Lake, expected: int) -> bool:
    """Whether all landed trades are stored and no table is stale."""
    if trades_status(lake).rows < expected:
        return False
    return not any(TableLag.measure(lake, timeframe).is_stale for timeframe in TIMEFRAMES)


def read_trades(lake: Lake) -> list[Trade]:
    fields = ("exchange", "symbol", "trade_id", "timestamp", "price", "quantity")
    stored = lake.trades().scan(selected_fields=fields).to_arrow().to_pylist()
    return [Trade(**row) for row in stored]


def parse_lines(lines: list[list[str]]) -> list[tuple[datetime, Decimal, Decimal]]:
    """Time, price and quantity of each trade. Lines without a quantity are no trades."""
    parsed = [(datetime.fromtimestamp(int(at), UTC), Decimal(p), Decimal(q)) for at, p, q in lines]
    return sorted(values for values in parsed if values[2])


def count_reported_rows(instance: dg.DagsterInstance, timeframe: Timeframe) -> int:
    """The sum of the newest row counts of a table's partitions in the graph."""
    counts: dict[str | None, object] = {}
    records = instance.fetch_materializations(dg.AssetKey(timeframe.table), limit=1000).records
    for record in reversed(records):  # oldest first
        if record.asset_materialization:
            count = record.asset_materialization.metadata["dagster/partition_row_count"].value
            counts[record.partition_key] = count
    return sum(int(str(count)) for count in counts.values())


@pytest.mark.timeout(660)
def test_tables_follow_the_landed_files(tmp_path: Path) -> None:
    """Five files land in two parts. After each part, the sensors bring all tables to the reference."""
    header, *lines = read_sample()
    expected_trades, parts = parse_lines(lines), list(enumerate(split_into_batches(lines)))
    home, log = tmp_path / "home", tmp_path / "dagster.log"
    lake = lakes.open_lake(home)
    with start_dagster(home, log, **FAST_SETTINGS) as (process, _):
        expected = 0
        for part in (parts[:FIRST], parts[FIRST:]):
            deadline = time.monotonic() + TIME_LIMIT
            for number, batch in part:
                land_file(home, number, header, batch)
                expected += len(parse_lines(batch))
                time.sleep(PAUSE)
            while not is_current(lake, expected):
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(3)
        instance = dg.DagsterInstance.from_config(str(home / "dagster"))
        with instance:
            failed = instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
            jobs = {run.job_name for run in instance.get_runs()}
            reported = {t.name: count_reported_rows(instance, t) for t in TIMEFRAMES}
    assert not failed
    assert jobs == {"ingest_files", *(f"refresh_{t.name}" for t in TIMEFRAMES)}
    stored = read_trades(lake)
    assert sorted((t.timestamp, t.price, t.quantity) for t in stored) == expected_trades, "every trade, once"
    for timeframe in TIMEFRAMES:
        candles = aggregate(stored, timeframe)
        assert lakes.read_candles(lake, timeframe) == candles, timeframe.name
        assert reported[timeframe.name] == len(candles), "the graph shows the stored rows"
