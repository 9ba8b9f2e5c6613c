"""Spark in a Java machine of this process: beside others of its kind, and again and again."""

import os
import socket
from pathlib import Path

import pytest

from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.settings import Settings

# The port at which PySpark's own local server listens.
_ITS_PORT = 15002


def _is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


@pytest.mark.spark
def test_it_finds_a_port_of_its_own_on_the_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process has PySpark's port; twice, as a command has several runs."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    monkeypatch.setenv("SPARK_REMOTE", "local[1]")
    outside = socket.gethostbyname(socket.gethostname())
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", _ITS_PORT))
        other.listen()
        for _ in range(2):
            with open_engine(Settings.read()) as engine:
                assert engine.spark.sql("select 1 as one").toArrow().to_pydict() == {"one": [1]}
                host, _, port = engine.spark.client._builder.endpoint.partition(":")
                assert _is_open(host, int(port))
                assert outside.startswith("127.") or not _is_open(outside, int(port))
            assert not _is_open(host, int(port))
            assert os.environ["SPARK_REMOTE"] == "local[1]", "the next session is Spark, too"
    assert "SPARK_CONNECT_AUTHENTICATE_TOKEN" not in os.environ, "Sail's client would want TLS"
