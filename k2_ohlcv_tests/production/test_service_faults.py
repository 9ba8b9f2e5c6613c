"""Services are killed while a backfill works on a Spark cluster. Tables end right, and nothing is stuck."""

import json
import signal
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv_tests.support.dagster_ui import ENDED, wait_until
from k2_ohlcv_tests.support.production import TRADES, WORKERS, Production, production
from k2_ohlcv_tests.support.spark_server import require_java

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

MINUTE = find_timeframe("1m")
#: Seconds for runs to end, to be retried and to be repeated, on a busy machine.
PATIENCE = 900.0


@pytest.fixture(scope="module")
def running() -> Iterator[Production]:
    """All services, with a month of trades and all tables."""
    require_java()
    with production(spark=True) as services:
        services.land("month.csv", TRADES)
        services.follow(PATIENCE)
        yield services


def begin(running: Production) -> str:
    """Begin a backfill, and wait until its run works. Returns the backfill."""
    running.finish_runs(PATIENCE)
    before = {run["runId"] for run in running.ui.runs()}
    backfill = running.empty_and_backfill(MINUTE)

    def has_started() -> bool:
        runs = [run for run in running.ui.runs() if run["runId"] not in before]
        return any(run["status"] == "STARTED" for run in runs)

    wait_until(has_started, PATIENCE, running.explain)
    return backfill


def assert_right(running: Production) -> None:
    """All tables follow again, every run has ended, and the table can be written: no pool is taken."""
    running.follow(PATIENCE)
    wait_until(lambda: all(r["status"] in ENDED for r in running.ui.runs()), PATIENCE, running.explain)
    backfill = running.empty_and_backfill(MINUTE)
    assert running.wait_for_backfill(backfill, PATIENCE) == "COMPLETED_SUCCESS", running.explain()
    running.follow(PATIENCE)


def test_the_daemon_is_killed_during_a_run_and_starts_again(running: Production) -> None:
    """The run goes on without it, and the backfill ends well."""
    backfill = begin(running)
    running.native.stop("daemon", signal.SIGKILL)
    running.native.start("daemon")
    assert running.wait_for_backfill(backfill, PATIENCE) == "COMPLETED_SUCCESS", running.explain()
    assert_right(running)


def test_the_code_server_is_killed_with_its_runs(running: Production) -> None:
    """Its runs are found dead, and what they did not finish is done by others."""
    begin(running)
    running.native.stop("code", signal.SIGKILL)
    running.native.start("code")
    assert_right(running)


def test_a_worker_is_killed_with_its_executor(running: Production) -> None:
    """Its tasks are repeated by the other worker's executor."""
    backfill = begin(running)
    running.native.stop(WORKERS[0], signal.SIGKILL)
    assert running.wait_for_backfill(backfill, PATIENCE) == "COMPLETED_SUCCESS", running.explain()
    running.native.start(WORKERS[0])
    assert_right(running)


def test_connect_is_killed_and_starts_again(running: Production) -> None:
    """Runs that had a session there fail or are retried. Later ones do the work."""
    begin(running)
    running.native.stop("spark-connect", signal.SIGKILL)
    running.native.start("spark-connect")
    assert_right(running)


def test_a_driver_without_the_secret_is_refused(running: Production) -> None:
    """A second Connect server that has another secret gets no executors, and ends."""
    words = running.native.services["spark-connect"].command.copy()
    words[words.index("--port") + 1] = "15003"
    done = running.native.run("spark-connect", words, _SPARK_AUTH_SECRET="another")
    assert done.returncode != 0
    with urlopen(f"http://{running.native.addresses['spark-master']}:8080/json/", timeout=30) as answer:
        state = json.load(answer)
    assert len(state["activeapps"]) == 1, "the first one"
    assert "another" not in done.stdout + done.stderr
