"""Starts local Spark for `SPARK_REMOTE=local[N]`: a Spark Connect server in a separate Java process.

The server listens only on the loopback, at a free port, and requires a token. Each Python process can
therefore have its own server. Py4J's private connection sends the catalog's secrets to the server. Arguments
of spark-submit would be visible to every user of the machine. The server ends when this process ends.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from k2_ohlcv.domain.addresses import redact_address, redact_secrets
from k2_ohlcv.domain.errors import EngineUnavailableError
from k2_ohlcv.engine.spark_catalog import SparkCatalog, spark_catalog
from k2_ohlcv.engine.spark_jars import fetch_spark_jars
from k2_ohlcv.lake.catalog import CATALOG, catalog_properties
from k2_ohlcv.settings import Settings

#: The settings whose values Spark hides. Its default does not match a REST catalog's credential and headers.
REDACTED = r"(?i)secret|password|passwd|token|access.?key|credential|\.header\."
_STOP_SECONDS = 10.0
_PUBLIC = {
    "spark.ui.enabled": "false",
    # Progress bars and notices of the JVM would mix with logs on stderr.
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}
_PRIVATE = {
    "spark.app.name": "k2-ohlcv",
    "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
    "spark.connect.grpc.binding.address": "127.0.0.1",
    "spark.connect.grpc.binding.port": "0",
    "spark.sql.artifact.isolation.enabled": "true",
    "spark.sql.artifact.isolation.alwaysApplyClassloader": "true",
}


@dataclass(frozen=True)
class LocalServer:
    """A Spark Connect server on this machine.

    Attributes:
        address: the address, as `sc://host:port`.
        token: the token that clients must send.
    """

    address: str
    token: str


def local_config(settings: Settings) -> dict[str, str]:
    """Make the Spark configuration of a local server, with the same catalog under the same name.

    Missing jars are downloaded first.

    Raises:
        EngineUnavailableError: Java is missing, or the jars cannot be downloaded.
        UsageError: Spark cannot open this kind of catalog.
    """
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        raise EngineUnavailableError(
            f"SPARK_REMOTE={redact_address(settings.spark_remote or '')} needs Java 17 or 21, and none is "
            "found. Install it, or unset SPARK_REMOTE to compute in this process without Java."
        )
    catalog = spark_catalog(CATALOG, catalog_properties(settings))
    jars = ",".join(str(jar) for jar in fetch_spark_jars(catalog.packages))
    return {"spark.jars": jars, **server_config(catalog), **_PUBLIC}


def server_config(catalog: SparkCatalog) -> dict[str, str]:
    """Make the configuration that every Spark server of this project needs, with the catalog's secrets."""
    return {
        **catalog.config,
        # A cached table may not have the newest snapshot, which a run has pinned.
        f"spark.sql.catalog.{CATALOG}.cache-enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.redaction.regex": REDACTED,
    }


@contextmanager
def local_server(master: str, config: Mapping[str, str]) -> Iterator[LocalServer]:
    """Start a local server, and end it on exit.

    Args:
        master: Spark's master, such as `local[N]`.
        config: Spark's configuration, with secrets.

    Raises:
        EngineUnavailableError: the server does not start.
    """
    public = {key: value for key, value in config.items() if key in _PUBLIC or key == "spark.jars"}
    token = secrets.token_urlsafe(32)
    private = {
        **_PRIVATE,
        **{key: value for key, value in config.items() if key not in public},
        "spark.connect.authenticate.token": token,
    }
    gateway = _launch({"spark.master": master, **public})
    try:
        port = _start(gateway, master, private)
        # For the name `localhost`, the client sends the token without TLS.
        yield LocalServer(f"sc://localhost:{port}", token)
    finally:
        _end(gateway)


def _launch(arguments: Mapping[str, str]) -> Any:
    """Start a Java process with Spark's classes, and connect to it."""
    from pyspark import SparkConf
    from pyspark.errors import PySparkRuntimeError
    from pyspark.java_gateway import launch_gateway

    conf = SparkConf(loadDefaults=False).setAll(list(arguments.items()))
    # spark-submit ignores the master if the environment has the address of a server.
    before = {name: os.environ.pop(name, None) for name in ("SPARK_REMOTE", "SPARK_LOCAL_IP")}
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    try:
        return launch_gateway(conf)  # type: ignore[no-untyped-call] # PySpark has no types here
    except PySparkRuntimeError as error:
        raise EngineUnavailableError(
            "Spark does not start on this machine: what Java says of it is above. It needs Java 17 or 21; or "
            "unset SPARK_REMOTE to compute in this process without Java."
        ) from error
    finally:
        del os.environ["SPARK_LOCAL_IP"]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _start(gateway: Any, master: str, config: Mapping[str, str]) -> int:
    """Start the server in the Java process, and return its port."""
    from py4j.protocol import Py4JError

    jvm = gateway.jvm
    try:
        conf = jvm.SparkConf(True)
        for key, value in config.items():
            conf.set(key, value)
        jvm.org.apache.spark.sql.classic.SparkSession.builder().config(conf).getOrCreate()
        service = getattr(jvm, "org.apache.spark.sql.connect.service.SparkConnectService$")
        port: int = getattr(service, "MODULE$").localPort()
    except Py4JError as error:
        cause = getattr(error, "java_exception", None)
        text = str(cause.toString() if cause is not None else error).split("\n", 1)[0]
        raise EngineUnavailableError(
            f"Spark does not start on this machine as SPARK_REMOTE={master} ({redact_secrets(text)}). "
            "Correct SPARK_REMOTE, or unset it to compute in this process without Java."
        ) from None
    return port


def _end(gateway: Any) -> None:
    """End the Java process. The process also ends when its standard input closes."""
    with suppress(Exception):
        gateway.shutdown()
    process = gateway.proc
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except Exception:
        process.kill()
        process.wait()
