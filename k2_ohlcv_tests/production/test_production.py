"""The production shape, started natively by docker/compose.yaml: from landing files to candles and back."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.request import urlopen

import pytest

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.dagster_ui import wait_until
from k2_ohlcv_tests.support.production import (
    DAYS,
    MARKET,
    MONTH,
    TRADES,
    Production,
    production,
    stray_files,
)
from k2_ohlcv_tests.support.spark_server import require_java
from k2_ohlcv_tests.support.trades import make_trade

pytestmark = pytest.mark.timeout(5400)  # for a busy machine: an idle one takes some minutes

MINUTE = find_timeframe("1m")
LATE = [make_trade(100_000 + i, MONTH + i * DAY + timedelta(minutes=7), market=MARKET) for i in (3, 11)]


@pytest.fixture(scope="module")
def sail() -> Iterator[Production]:
    """All services without Spark. Candles of a minute are kept for a week."""
    with production(K2_RETENTION_1M="7d") as services:
        yield services


@pytest.fixture(scope="module")
def spark() -> Iterator[Production]:
    """All services, Spark's too."""
    require_java()
    with production(spark=True) as services:
        yield services


@pytest.fixture(scope="module")
def rest() -> Iterator[Production]:
    """All services without Spark, on a REST catalog."""
    with production(rest=True) as services:
        yield services


def backfill_month(running: Production) -> None:
    """A backfill from the UI makes the emptied 1m table again."""
    backfill = running.empty_and_backfill(MINUTE)
    assert running.wait_for_backfill(backfill) == "COMPLETED_SUCCESS", running.explain()
    running.follow()


def stored_bytes(running: Production) -> int:
    tables = [running.lake.trades(), *(running.lake.candles(timeframe) for timeframe in TIMEFRAMES)]
    return sum(sum(lakes.files_of(table).values()) for table in tables)


def apply_retention(running: Production) -> None:
    """Launch the retention job in the UI. It frees what it says, and keeps the last week of 1m."""
    running.finish_runs()
    before = stored_bytes(running)
    run = running.ui.launch("retention", {"ops": {"apply_retention": {"config": {"apply": True}}}})
    wait_until(lambda: running.ui.status(run) in {"SUCCESS", "FAILURE"}, 600, running.explain)
    assert running.ui.status(run) == "SUCCESS", running.explain()
    assert stored_bytes(running) < before
    line = datetime.fromisoformat(running.lake.candles(MINUTE).properties[EXPIRED_BEFORE])
    assert line == MONTH + (DAYS - 7 - 1) * DAY
    kept = [candle for candle in aggregate(running.landed, MINUTE) if candle.window_start >= line]
    assert lakes.read_candles(running.lake, MINUTE) == kept
    lakes.assert_equal_to_trades(running.lake, running.landed, [t for t in TIMEFRAMES if t != MINUTE])


def validate(running: Production) -> None:
    """The command line in the code server's container finds no fault."""
    done = running.native.run("code", ["k2-ohlcv", "validate", "--json"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)


def assert_no_run_failed(running: Production) -> None:
    running.finish_runs()
    assert {run["status"] for run in running.ui.runs()} == {"SUCCESS"}, running.explain()


def test_sensors_backfill_retention_and_validate_on_sail(sail: Production) -> None:
    """Files that land become candles, late ones too, and what a person asks for in the UI is done."""
    sail.land("month.csv", TRADES)
    sail.follow()
    sail.land("late.csv", LATE)  # is ingested and refreshed while the backfill works
    backfill_month(sail)
    apply_retention(sail)
    validate(sail)
    assert_no_run_failed(sail)
    assert not stray_files(sail.native), "services write to their volumes only"
    assert sail.native.is_healthy("daemon")


def test_sensors_and_backfill_on_a_spark_cluster(spark: Production) -> None:
    """The same on two workers behind Connect."""
    master = f"http://{spark.native.addresses['spark-master']}:8080/json/"
    with urlopen(master, timeout=30) as answer:
        state = json.load(answer)
    assert (state["aliveworkers"], [app["name"] for app in state["activeapps"]]) == (2, ["k2-ohlcv"])
    spark.land("month.csv", TRADES)
    spark.follow()
    backfill_month(spark)
    validate(spark)
    assert_no_run_failed(spark)
    assert not stray_files(spark.native), "services write to their volumes only"


@pytest.mark.rest
def test_sensors_and_backfill_on_a_rest_catalog(rest: Production) -> None:
    """The same where the catalog is a server of its own."""
    assert rest.lake.catalog.properties["type"] == "rest"
    rest.land("month.csv", TRADES)
    rest.follow()
    backfill_month(rest)
    validate(rest)
    assert_no_run_failed(rest)
