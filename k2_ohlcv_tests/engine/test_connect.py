"""A Connect server that dies, hangs or is restarted ends the work in words and within seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator

from k2_ohlcv.defs.resources import SparkResource
from k2_ohlcv.domain.errors import EngineUnavailableError
from k2_ohlcv.engine import connect
from k2_ohlcv.engine.connect import Patience
from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.sail_server import Server, server

#: Takes longer than any test; its result is one row.
LONG = "select sum(a.id * b.id % 7) as s from range(400000) a cross join range(4000000) b"
IMPATIENT = Patience(retry=2, probe_every=0.5, probe=4, probes=3, close=1)


@pytest.fixture
def sail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server in a process of its own, and a client that waits for seconds only."""
    monkeypatch.setattr(connect, "PATIENCE", IMPATIENT)
    with server() as one:
        yield one


def after(seconds: float, what: Callable[[], None]) -> None:
    """Do something in a while, beside the test."""
    timer = threading.Timer(seconds, what)
    timer.daemon = True
    timer.start()


def ask(engine: Engine, query: str) -> object:
    return engine.spark.sql(query).toArrow().to_pylist()


def test_a_server_that_dies_in_the_middle_fails_in_words(tmp_path: Path, sail_server: Server) -> None:
    """The session's end does not wait again."""
    with open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE=sail_server.remote)) as engine:
        after(1, sail_server.kill)
        with pytest.raises(EngineUnavailableError) as raised:
            ask(engine, LONG)
        assert f"the Spark Connect server at 127.0.0.1:{sail_server.port} does not answer" in str(
            raised.value
        )
        assert "Start it again or correct SPARK_REMOTE" in str(raised.value)
        assert engine.is_lost
        began = time.monotonic()
        with pytest.raises(EngineUnavailableError, match="does not answer"):
            ask(engine, "select 1")
    assert time.monotonic() - began < 3


def test_a_server_that_hangs_in_the_middle_is_found_out(tmp_path: Path, sail_server: Server) -> None:
    with open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE=sail_server.remote)) as engine:
        after(1, sail_server.suspend)
        with pytest.raises(EngineUnavailableError, match=r"has answered nothing for 12 seconds: it hangs"):
            ask(engine, LONG)
        began = time.monotonic()
    assert time.monotonic() - began < 3


def test_a_server_that_hangs_from_the_start_is_found_out(tmp_path: Path, sail_server: Server) -> None:
    """The system takes the connection, so that trying the port finds nothing wrong."""
    sail_server.suspend()
    with (
        pytest.raises(EngineUnavailableError, match=r"it hangs|does not answer any more"),
        open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE=sail_server.remote)),
    ):
        pass


def test_the_end_of_a_session_waits_for_no_server_that_hangs(tmp_path: Path, sail_server: Server) -> None:
    """As when a run is told to stop before the probe has found out."""
    with open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE=sail_server.remote)) as engine:
        ask(engine, "select 1")
        sail_server.suspend()
        began = time.monotonic()
    assert time.monotonic() - began < 4


def test_a_long_query_is_no_server_that_hangs(
    tmp_path: Path, sail_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than a silent server is waited for. The probe is answered meanwhile."""
    monkeypatch.setattr(connect, "PATIENCE", Patience(retry=1, probe_every=0.5, probe=3, probes=2, close=1))
    with open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE=sail_server.remote)) as engine:
        for power in range(16):
            began = time.monotonic()
            ask(engine, LONG.replace("400000)", f"{20 * 2**power})"))
            if time.monotonic() - began > 7:
                break
        assert not engine.is_lost


def test_a_server_that_was_restarted_has_lost_the_session(tmp_path: Path, sail_server: Server) -> None:
    """What it computed is gone, and another session works."""
    settings = lakes.lake_settings(tmp_path, SPARK_REMOTE=sail_server.remote)
    with open_engine(settings) as engine:
        after(1, sail_server.kill)
        with pytest.raises(EngineUnavailableError):
            ask(engine, LONG)
        sail_server.start()
        with open_engine(settings) as again:
            assert ask(again, "select 1 as one") == [{"one": 1}]


def test_the_resource_gives_a_new_session_for_one_that_is_lost(
    tmp_path: Path, sail_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    monkeypatch.setenv("SPARK_REMOTE", sail_server.remote)
    resource = SparkResource()
    lost = resource.engine
    sail_server.kill()
    for _ in range(2):
        with pytest.raises(EngineUnavailableError, match=r"no Spark Connect server answers|does not answer"):
            ask(resource.engine, "select 1")
    sail_server.start()
    assert ask(resource.engine, "select 1 as one") == [{"one": 1}]
    assert resource.engine is not lost
    resource.teardown_after_execution(None)  # type: ignore[arg-type] # not looked at


def test_the_finalizer_of_an_ended_session_leaves_other_sessions_alone(
    tmp_path: Path, sail_server: Server
) -> None:
    """PySpark's finalizer would shut down the pool of threads that all sessions share."""
    settings = lakes.lake_settings(tmp_path, SPARK_REMOTE=sail_server.remote)
    ended: list[Any] = []
    for each in (settings, lakes.lake_settings(tmp_path)):
        with open_engine(each) as engine:
            ask(engine, "select 1")
            ended.append(engine.spark)
    with open_engine(settings) as engine:
        ask(engine, "select 1")
        pool = ExecutePlanResponseReattachableIterator._release_thread_pool_instance
        assert pool is not None
        for spark in ended:
            spark.__del__()
        assert ExecutePlanResponseReattachableIterator._release_thread_pool_instance is pool
        assert ask(engine, "select 1 as one") == [{"one": 1}]
