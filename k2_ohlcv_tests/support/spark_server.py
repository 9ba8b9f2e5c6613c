"""A real Spark Connect server for tests, started from the installed pyspark."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark
import pytest

from k2_ohlcv.engine.local_spark import local_config
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.servers import free_port

_CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"


def require_java() -> None:
    """Skip the test where there is no Java. Under K2_REQUIRE_SPARK the server fails to start instead."""
    if shutil.which("java") is None and not os.environ.get("K2_REQUIRE_SPARK"):
        pytest.skip("real Spark needs Java, and none is found")


class SparkServer:
    """A Spark Connect server with a lake's catalog, at one port of the loopback."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.remote = f"sc://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 180) -> None:
        """Start it, and wait until it listens."""
        submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
        config = {
            **local_config(lakes.lake_settings(self.home)),
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": str(self.port),
            "spark.sql.shuffle.partitions": "2",
        }
        options = [part for key, value in config.items() for part in ("--conf", f"{key}={value}")]
        with (self.home / "spark.log").open("w") as log:
            self._process = subprocess.Popen(
                [str(submit), "--master", "local[2]", "--class", _CLASS, *options, "spark-internal"],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env=os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"},
            )
        self._wait(self._process, time.monotonic() + seconds)

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def suspend(self) -> None:
        """Have it hang: the system takes connections for it, and nothing is answered."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL).wait(30)

    def stop(self) -> None:
        """End it in order."""
        self._send(signal.SIGTERM).wait(30)

    def _send(self, number: signal.Signals) -> subprocess.Popen[bytes]:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process

    def _wait(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.3)
            else:
                return
        process.kill()
        process.wait(30)
        raise RuntimeError(f"Spark did not come up: {(self.home / 'spark.log').read_text()[-2000:]}")


@contextmanager
def connect_server(home: Path) -> Iterator[SparkServer]:
    """A server that is there, ended on exit."""
    server = SparkServer(home)
    server.start()
    try:
        yield server
    finally:
        server.stop()
