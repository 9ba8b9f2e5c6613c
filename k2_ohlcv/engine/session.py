"""Opens a Spark session: on Sail in this process, on a Spark Connect server, or on local Spark.

Computations in the session are in `rollup` and `totals`. Timeouts of a server are in `connect`. The Dagster
resource is in `defs.resources`.
"""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from k2_ohlcv.domain.addresses import redact_address
from k2_ohlcv.domain.errors import EngineUnavailableError, UsageError
from k2_ohlcv.domain.memory import DEFAULT_MEMORY_MB
from k2_ohlcv.engine.local_spark import local_config, local_server
from k2_ohlcv.engine.private_metadata import PrivateMetadata
from k2_ohlcv.engine.sail_storage import SailStorage, sail_storage
from k2_ohlcv.engine.session_end import stop_session
from k2_ohlcv.lake.catalog import catalog_properties
from k2_ohlcv.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from k2_ohlcv.engine.connect import ServerConnection

_DEFAULT_PORT = 15002
#: A Connect client blocks for minutes if nothing listens at the address. The port is therefore tried first.
_CONNECT_SECONDS = 5.0
_UTC = {"spark.sql.session.timeZone": "UTC"}


@dataclass(frozen=True)
class Engine:
    """An open session, and the data to find tables in it.

    Attributes:
        spark: the session, in UTC.
        embedded: whether the server is Sail in this process. Sail finds tables by location, not by name.
        workspace: a private folder of this session, removed at its end.
        storage: the environment variables that an embedded server needs for the object store.
        connection: the connection to the server. None if the server is in this process.
        memory_mb: the memory in MB that a run should stay within.
    """

    spark: "SparkSession"
    embedded: bool
    workspace: Path
    storage: SailStorage | None = None
    connection: "ServerConnection | None" = None
    memory_mb: int = DEFAULT_MEMORY_MB

    @cached_property
    def metadata(self) -> PrivateMetadata:
        """The private copies of table metadata files, for an embedded server."""
        return PrivateMetadata(self.workspace)

    @property
    def is_lost(self) -> bool:
        """Whether the server or this session no longer exists, so that a new session is needed."""
        return self.connection is not None and self.connection.lost is not None


@contextmanager
def open_engine(settings: Settings, config: Mapping[str, str] | None = None) -> Iterator[Engine]:
    """Open a session according to the settings, and end it on exit.

    Args:
        settings: `spark_remote` selects the server.
        config: more Spark configuration for the session.

    Raises:
        EngineUnavailableError: the server cannot be reached or started.
        UsageError: `SPARK_REMOTE` is neither `sc://host:port` nor `local[N]`.
    """
    remote = settings.spark_remote
    workspace = Path(tempfile.mkdtemp(prefix="k2-ohlcv-"))
    try:
        if remote is None:
            with sail_storage(catalog_properties(settings)) as storage, _start_sail() as address:
                yield from _connect_session(settings, address, config or {}, workspace, storage)
        elif remote.startswith("sc://"):
            yield from _remote_session(settings, remote, config or {}, workspace)
        elif remote.startswith("local"):
            yield from _local_session(settings, remote, config or {}, workspace)
        else:
            raise UsageError(
                f"SPARK_REMOTE={redact_address(remote)!r} is not known: it is sc://host:port or local[N], "
                "or unset for Sail"
            )
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _connect_session(
    settings: Settings, remote: str, config: Mapping[str, str], workspace: Path, storage: SailStorage
) -> Iterator[Engine]:
    """Open a session on Sail. The server is in this process, so the connection needs no supervision."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.remote(remote)
    for key, value in {**_UTC, **config}.items():
        builder = builder.config(key, value)
    spark = builder.create()
    engine = Engine(spark, True, workspace, storage, memory_mb=settings.memory_mb)
    try:
        yield engine
    finally:
        engine.metadata.remove()
        stop_session(spark)


def _remote_session(
    settings: Settings, remote: str, config: Mapping[str, str], workspace: Path
) -> Iterator[Engine]:
    host_and_port = _try_port(remote)
    from pyspark.errors import PySparkValueError

    from k2_ohlcv.engine.connect import ServerConnection, connected

    try:
        connection = ServerConnection(
            remote,
            f"the Spark Connect server at {host_and_port}",
            "Start it again or correct SPARK_REMOTE, and run this again; committed windows stay. Or unset "
            "SPARK_REMOTE to compute in this process.",
        )
    except PySparkValueError:
        raise _no_address(remote) from None
    with connected(connection, {**_UTC, **config}) as spark:
        yield Engine(spark, False, workspace, connection=connection, memory_mb=settings.memory_mb)


def _local_session(
    settings: Settings, master: str, config: Mapping[str, str], workspace: Path
) -> Iterator[Engine]:
    from k2_ohlcv.engine.connect import ServerConnection, connected

    with local_server(master, {**local_config(settings), **config}) as server:
        connection = ServerConnection(
            server.address,
            f"Spark on this machine (SPARK_REMOTE={master})",
            "Run this again; committed windows stay. If its memory was too small, set "
            "spark.driver.memory, or unset SPARK_REMOTE to compute in this process.",
            server.token,
        )
        with connected(connection, _UTC) as spark:
            yield Engine(spark, False, workspace, connection=connection, memory_mb=settings.memory_mb)


@contextmanager
def _start_sail() -> Iterator[str]:
    # Sail's logger reads this variable when the library is loaded. Its notices would mix with logs on stderr.
    os.environ.setdefault("RUST_LOG", "error")
    # Columns of trades of other markets and times are then not decoded. A refresh takes a fifth less.
    os.environ.setdefault("SAIL_PARQUET__PUSHDOWN_FILTERS", "true")
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
    """Check the loopback. If it is down, the server still starts, but its client blocks for minutes."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise EngineUnavailableError(
            f"the engine in this process cannot be reached at {host}:{port} ({error}): the loopback "
            "interface of this machine or container is down, or a firewall closes it. Bring it up, as with: "
            "ip link set lo up"
        ) from None


def _no_address(remote: str) -> UsageError:
    """Make the error for an invalid address. The library's own message would repeat a token."""
    shown = re.sub(r"(//[^/]*/).+", r"\1***", redact_address(remote))
    return UsageError(
        f"SPARK_REMOTE={shown!r} is not an address: it is sc://host:port, the port a "
        "number, and any parameters behind a slash, as in sc://host:15002/;use_ssl=true"
    )


def _try_port(remote: str) -> str:
    """Check that a server listens at the address. Returns host and port, without secrets of the address."""
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
    return f"{host}:{port}"
