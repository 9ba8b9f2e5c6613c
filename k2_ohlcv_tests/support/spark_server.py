"""A real Spark Connect server for tests, started from the installed pyspark."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark

from k2_ohlcv.engine.local_spark import local_config
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.servers import free_port

_SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"


@contextmanager
def connect_server(home: Path, seconds: float = 180) -> Iterator[str]:
    """A Spark Connect server with the lake's catalog. Yields its `sc://` address."""
    port = free_port()
    config = {
        **local_config(lakes.lake_settings(home)),
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.sql.shuffle.partitions": "2",
    }
    options = [part for key, value in config.items() for part in ("--conf", f"{key}={value}")]
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    command = [str(submit), "--master", "local[2]", "--class", _SERVER, *options, "spark-internal"]
    log = (home / "spark.log").open("w")
    server = subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=home,
        env=os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"},
    )
    try:
        _wait(port, server, home / "spark.log", time.monotonic() + seconds)
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _wait(port: int, server: subprocess.Popen[bytes], log: Path, deadline: float) -> None:
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise RuntimeError(f"Spark did not come up: {log.read_text()[-2000:]}")
