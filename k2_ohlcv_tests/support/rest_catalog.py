"""An Iceberg REST catalog for tests: the server of Iceberg's own tests, in a Java process on the loopback.

`make .tools/rest` gets its jars with Maven.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from k2_ohlcv_tests.support.compose import DOCKER
from k2_ohlcv_tests.support.servers import S3, free_port, is_answering, wait_for_server

_JARS = DOCKER.parent / ".tools" / "rest"
_SOURCE = Path(__file__).parent / "rest" / "RestCatalog.java"
_SMALL_JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

_BUCKET = "rest"
#: A catalog in the server's memory, which ends with the server. A second connection would see another one.
_IN_MEMORY = {
    "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
    "uri": "jdbc:sqlite::memory:",
    "clients": "1",
    "jdbc.schema-version": "V1",
}


def require_rest() -> None:
    """A test without the server's jars or a JDK skips, or fails under K2_REQUIRE_REST."""
    reason = ""
    if shutil.which("javac") is None:
        reason = "a REST catalog needs a JDK, and none is found"
    elif not any(_JARS.glob("iceberg-core-*-tests.jar")):
        reason = "a REST catalog needs the jars of `make .tools/rest`"
    if reason and os.environ.get("K2_REQUIRE_REST"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@contextmanager
def rest_server(properties: Mapping[str, str], port: int) -> Iterator[None]:
    """Serve a catalog over REST, at a port of the loopback.

    Args:
        properties: the properties of the catalog behind the server, in the names of Java's Iceberg.
        port: the port to listen on.
    """
    require_rest()
    command = ["java", *_SMALL_JVM, "-cp", f"{_JARS}/*", str(_SOURCE), "127.0.0.1", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdin is not None
            server.stdin.write("".join(f"{name}={value}\n" for name, value in properties.items()))
            server.stdin.close()
            wait_for_server(lambda: is_answering(port), server)
            yield
        finally:
            server.terminate()


def s3_properties(endpoint: str, key: str, secret: str) -> dict[str, str]:
    """The properties with which the server finds an S3 server."""
    return {
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "s3.endpoint": endpoint,
        "s3.path-style-access": "true",
        "s3.access-key-id": key,
        "s3.secret-access-key": secret,
        "client.region": "us-east-1",
    }


@contextmanager
def rest_server_on(s3: S3) -> Iterator[str]:
    """A REST catalog whose tables are in a bucket of an S3 server."""
    s3.make_bucket(_BUCKET)
    behind = {**_IN_MEMORY, "warehouse": f"s3://{_BUCKET}/warehouse"}
    port = free_port()
    with rest_server({**behind, **s3_properties(s3.endpoint, "key", "secret")}, port):
        yield f"http://127.0.0.1:{port}"
