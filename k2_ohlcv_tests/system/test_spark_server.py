"""A real Spark Connect server that is killed or hangs: work ends in words, and succeeds once it is back."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.domain.errors import EngineUnavailableError
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine import connect
from k2_ohlcv.engine.connect import Patience
from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.spark_server import SparkServer, connect_server, require_java
from k2_ohlcv_tests.support.trades import week_of_trades

pytestmark = [pytest.mark.spark, pytest.mark.system, pytest.mark.xdist_group("spark")]

HOUR = find_timeframe("1h")
TRADES = week_of_trades()
#: Takes longer than any test; its result is one row.
LONG = "select sum(a.id * b.id % 7) as s from range(400000) a cross join range(4000000) b"

#: The command line. Before it asks for the computed windows, it says so and waits for a line.
PROGRAM = """
import sys
from k2_ohlcv.cli.main import main
from k2_ohlcv.engine.trades_reader import TradesFrame

collect = TradesFrame.collect

def wait(frame, *arguments):
    print("ready", flush=True)
    sys.stdin.readline()
    return collect(frame, *arguments)

TradesFrame.collect = wait
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkServer]:
    """A server over a lake with trades."""
    require_java()
    home = tmp_path_factory.mktemp("killed-spark")
    lakes.add_trades(lakes.open_lake(home), TRADES)
    with connect_server(home) as server:
        yield server


@pytest.fixture
def server(one_server: SparkServer) -> SparkServer:
    """The server, started again where the last test killed it."""
    if not one_server.is_running:
        one_server.start()
    return one_server


def open_session(server: SparkServer):  # type: ignore[no-untyped-def]
    return open_engine(lakes.lake_settings(server.home, SPARK_REMOTE=server.remote))


def ask(engine: Engine, query: str) -> object:
    return engine.spark.sql(query).toArrow().to_pylist()


def during_query(engine: Engine, what: Callable[[], None]) -> str:
    """Do something in the middle of a long query; gives the error that it ends with."""
    timer = threading.Timer(3, what)
    timer.start()
    with pytest.raises(EngineUnavailableError) as raised:
        ask(engine, LONG)
    timer.join()
    return str(raised.value)


def test_term_ends_a_refresh_whose_server_hangs_and_frees_its_pool(server: SparkServer) -> None:
    """Within seconds, while a query waits for its answer."""
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    environment |= {"K2_HOME": str(server.home), "SPARK_REMOTE": server.remote}
    command = [sys.executable, "-c", PROGRAM, "refresh", "--timeframe", "1h"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "ready\n"
    server.suspend()
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(2)
        assert process.poll() is None
        process.terminate()
        began = time.monotonic()
        _, said = process.communicate(timeout=60)
        seconds = time.monotonic() - began
    finally:
        server.resume()
        process.kill()
    assert process.returncode == 130, said
    assert "error: interrupted; what was committed stays" in said
    assert "Traceback" not in said
    assert seconds < 30
    with open_instance(lakes.lake_settings(server.home)) as instance:
        pool = instance.event_log_storage.get_concurrency_info(HOUR.table)
        assert pool.active_slot_count == 0


def test_a_server_that_is_killed_in_a_query_fails_in_words_and_works_when_it_is_back(
    server: SparkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "PATIENCE", Patience(retry=3, close=1))
    with open_session(server) as engine:
        began = time.monotonic()
        said = during_query(engine, server.kill)
    assert time.monotonic() - began < 20
    assert f"the Spark Connect server at 127.0.0.1:{server.port} does not answer any more" in said
    server.start()
    lake = lakes.open_lake(server.home)
    with open_session(server) as engine:
        refresh(lake, engine, HOUR)
    lakes.assert_equal_to_trades(lake, TRADES, [HOUR])


def test_a_server_that_hangs_in_a_query_is_found_out(
    server: SparkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed at the end: nothing else ends its query."""
    patience = Patience(retry=2, probe_every=0.5, probe=2, probes=3, close=1)
    monkeypatch.setattr(connect, "PATIENCE", patience)
    with open_session(server) as engine:
        began = time.monotonic()
        said = during_query(engine, server.suspend)
    server.kill()
    assert "has answered nothing for 6 seconds: it hangs" in said
    assert time.monotonic() - began < 20
