"""One Spark session: on Sail in this process, on a Spark Connect server, or on PySpark's own local one.

What runs in the session is in `rollup`; how Dagster holds it is in `resource`.
"""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from k2_ohlcv.domain.addresses import shown_address
from k2_ohlcv.domain.errors import EngineUnavailableError, UsageError
from k2_ohlcv.domain.window import Interval
from k2_ohlcv.engine.jars import spark_jars
from k2_ohlcv.engine.local_spark import local_server
from k2_ohlcv.lake.catalog import CATALOG, catalog_properties
from k2_ohlcv.lake.embedded import database_of
from k2_ohlcv.lake.watermark import RefusedWindow
from k2_ohlcv.settings import Settings

if TYPE_CHECKING:
    import polars as pl
    from pyspark.sql import SparkSession

#: The newest Iceberg runtime for Spark is built for 4.1, and pyspark stays there with it.
ICEBERG_RUNTIME = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0"
_ICEBERG_AWS = "org.apache.iceberg:iceberg-aws-bundle:1.12.0"
_JDBC_DRIVERS = {
    "sqlite": "org.xerial:sqlite-jdbc:3.50.3.0",
    "postgresql": "org.postgresql:postgresql:42.7.8",
}

_DEFAULT_PORT = 15002
#: A Connect client given an address where nothing listens hangs for minutes: we try the port first.
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Done:
    """What a run made equal to the trades.

    Attributes:
        snapshot: the trades snapshot; None where trades have none.
        intervals: whole windows.
        refused: those of them that break an invariant, and stay as they were.
    """

    snapshot: int | None
    intervals: tuple[Interval, ...]
    refused: tuple[RefusedWindow, ...] = ()


@dataclass
class Engine:
    """An open session, and how tables are named in it.

    Attributes:
        spark: the session, in UTC.
        embedded: whether the server is Sail in this process, which finds tables by location, not by name.
        workspace: a private folder of this session, removed with it.
        share: names of the timeframes that this session's user means to ask for. A scan for one of them
            answers the others that it can.
        done: by timeframe, what this session did to its table, for the checks that follow.
        totals: the totals of the last scan for checks, by snapshot and timeframe, with their intervals.
    """

    spark: "SparkSession"
    embedded: bool
    workspace: Path
    share: frozenset[str] = field(default_factory=frozenset)
    done: dict[str, Done] = field(default_factory=dict)
    totals: dict[tuple[int, str], "tuple[list[Interval], pl.DataFrame]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from k2_ohlcv.engine.rollup import Shelf

        self.shelf = Shelf()


@contextmanager
def open_engine(settings: Settings, config: Mapping[str, str] | None = None) -> Iterator[Engine]:
    """A session as the settings say, ended on exit.

    Args:
        settings: `spark_remote` chooses the server.
        config: further Spark configuration for the session.

    Raises:
        EngineUnavailableError: the server cannot be reached or started.
        UsageError: `SPARK_REMOTE` is neither `sc://host:port` nor `local[N]`.
    """
    remote = settings.spark_remote
    workspace = Path(tempfile.mkdtemp(prefix="k2-ohlcv-"))
    try:
        if remote is None:
            with _sail() as address:
                yield from _session(address, config or {}, workspace, embedded=True)
        elif remote.startswith("sc://"):
            _try_port(remote)
            yield from _session(remote, config or {}, workspace)
        elif remote.startswith("local"):
            with local_server(remote, {**local_config(settings), **(config or {})}) as address:
                yield from _session(address, {}, workspace)
        else:
            raise UsageError(
                f"SPARK_REMOTE={shown_address(remote)!r} is not known: it is sc://host:port or local[N], "
                "or unset for Sail"
            )
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _session(
    remote: str, config: Mapping[str, str], workspace: Path, *, embedded: bool = False
) -> Iterator[Engine]:
    from pyspark.errors import PySparkValueError
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.remote(remote).config("spark.sql.session.timeZone", "UTC")
    for key, value in config.items():
        builder = builder.config(key, value)
    try:
        spark = builder.create()
    except PySparkValueError as error:
        raise _no_address(remote) if error.getCondition() == "INVALID_CONNECT_URL" else error from None
    try:
        yield Engine(spark, embedded, workspace)
    finally:
        spark.stop()


@contextmanager
def _sail() -> Iterator[str]:
    # Read by Sail's logger when its library is loaded: its notices would mix with ours on stderr.
    os.environ.setdefault("RUST_LOG", "error")
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    try:
        host, port = server.listening_address
        _try_loopback(host, port)
        yield f"sc://{host}:{port}"
    finally:
        server.stop()


def _try_loopback(host: str, port: int) -> None:
    """Where the loopback is down the server starts all the same, and its client would wait for minutes."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise EngineUnavailableError(
            f"the engine in this process cannot be reached at {host}:{port} ({error}): the loopback "
            "interface of this machine or container is down, or a firewall closes it. Bring it up, as with: "
            "ip link set lo up"
        ) from None


def _no_address(remote: str) -> UsageError:
    """Instead of the library's own words, which repeat what it could not read, a token too."""
    shown = re.sub(r"(//[^/]*/).+", r"\1***", shown_address(remote))
    return UsageError(
        f"SPARK_REMOTE={shown!r} is not an address: it is sc://host:port, the port a "
        "number, and any parameters behind a slash, as in sc://host:15002/;use_ssl=true"
    )


def _try_port(remote: str) -> None:
    try:
        parts = urlsplit(remote)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORT
    except ValueError:
        host, port = "", 0
    if not host:
        raise _no_address(remote)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise EngineUnavailableError(
            f"no Spark Connect server answers at {host}:{port} ({error}). "
            "Start it, correct SPARK_REMOTE, or unset it to compute in this process."
        ) from None


def local_config(settings: Settings) -> dict[str, str]:
    """Spark configuration for a server on this machine that has the same catalog under the same name.

    Its jars are fetched first, where this user has not got them yet.

    Raises:
        EngineUnavailableError: there is no Java, or the jars cannot be fetched.
    """
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        raise EngineUnavailableError(
            f"SPARK_REMOTE={shown_address(settings.spark_remote or '')} needs Java 17 or 21, and none is "
            "found. Install it, or unset SPARK_REMOTE to compute in this process without Java."
        )
    properties = catalog_properties(settings)
    prefix = f"spark.sql.catalog.{CATALOG}"
    config = {
        prefix: "org.apache.iceberg.spark.SparkCatalog",
        # A cached table would not know the snapshot that was pinned a moment ago.
        f"{prefix}.cache-enabled": "false",
        "spark.ui.enabled": "false",
        # The progress bars and notices of the JVM would mix with ours on stderr.
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.sql.session.timeZone": "UTC",
    }
    packages = [ICEBERG_RUNTIME]
    uri = properties.get("uri", "")
    dialect = uri.split(":", 1)[0].split("+", 1)[0]
    if properties.get("type") == "sql" or dialect in _JDBC_DRIVERS:
        packages.append(_JDBC_DRIVERS[dialect])
        config |= _jdbc_config(prefix, dialect, uri)
    else:
        config |= {f"{prefix}.type": properties.get("type", "rest"), f"{prefix}.uri": uri}
    for key, value in properties.items():
        if key == "warehouse" or key.startswith("s3."):
            config[f"{prefix}.{key}"] = value
    if properties.get("warehouse", "").startswith("s3"):
        packages.append(_ICEBERG_AWS)
        config[f"{prefix}.io-impl"] = "org.apache.iceberg.aws.s3.S3FileIO"
    return {"spark.jars": ",".join(str(jar) for jar in spark_jars(packages)), **config}


def _as_sqlite_names_it(path: str) -> str:
    """A database's path for the JDBC driver, which takes what follows a question mark for parameters."""
    return f"file:{quote(path)}" if set(path) & set("?#%") else path


def _jdbc_config(prefix: str, dialect: str, uri: str) -> dict[str, str]:
    parts = urlsplit(uri)
    config = {f"{prefix}.type": "jdbc", f"{prefix}.jdbc.schema-version": "V1"}
    if dialect == "sqlite":
        return config | {f"{prefix}.uri": f"jdbc:sqlite:{_as_sqlite_names_it(database_of(uri))}"}
    if parts.username:
        config[f"{prefix}.jdbc.user"] = parts.username
    if parts.password:
        config[f"{prefix}.jdbc.password"] = parts.password
    return config | {f"{prefix}.uri": f"jdbc:{dialect}://{parts.hostname}:{parts.port or 5432}{parts.path}"}
