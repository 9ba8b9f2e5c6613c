"""Apache Spark in a Java machine of this process, with a Spark Connect server on a free port of the loopback.

PySpark itself starts such a server for `local[N]`, but always at one port, on every interface. So two
processes at once broke each other. Its `stop` also removes `SPARK_REMOTE`, and the next session would be
another engine.
Spark's configuration is made in `session`.
"""

import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_LOOPBACK = "127.0.0.1"
# With this name, and no other, PySpark's client sends its token without TLS.
_HOST = "localhost"
_AUTHENTICATION = "SPARK_CONNECT_AUTHENTICATE_TOKEN"
#: What PySpark sets in the environment, or needs absent, while it starts a server.
_VARIABLES = ("SPARK_REMOTE", "SPARK_CONNECT_MODE_ENABLED", _AUTHENTICATION)
# One for all servers of this process: they share a Java machine, which reads it from its environment once.
_TOKEN = str(uuid.uuid4())


@contextmanager
def local_server(master: str, config: Mapping[str, str]) -> Iterator[str]:
    """A server of this process, ended on exit.

    Args:
        master: Spark's master, such as `local[2]`.
        config: Spark's configuration.

    Yields:
        The server's `sc://` address.
    """
    from pyspark.sql.connect.session import SparkSession as ConnectSession
    from pyspark.sql.session import SparkSession as ClassicSession

    before = {name: os.environ.pop(name, None) for name in _VARIABLES}
    os.environ[_AUTHENTICATION] = before[_AUTHENTICATION] or _TOKEN
    port = _free_port()
    options = {
        **config,
        "spark.driver.host": _LOOPBACK,
        "spark.driver.bindAddress": _LOOPBACK,
        "spark.connect.grpc.binding.address": _LOOPBACK,
        "spark.connect.grpc.binding.port": str(port),
    }
    try:
        # What PySpark's builder calls, too. It has no public way to say where the server listens.
        ConnectSession._start_connect_server(master, options)
        yield f"sc://{_HOST}:{port}"
    finally:
        if (server := ClassicSession._instantiatedSession) is not None:
            server.stop()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
