"""Sessions: each way of asking for one, and what is said when it cannot be had."""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped] # ships none
import pytest

from k2_ohlcv.defs.resources import SparkResource
from k2_ohlcv.domain.errors import EngineUnavailableError, UsageError
from k2_ohlcv.engine import local_spark
from k2_ohlcv.engine.connect import ServerConnection
from k2_ohlcv.engine.local_spark import local_config
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.engine.spark_catalog import ICEBERG_RUNTIME
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.servers import free_port
from k2_ohlcv_tests.support.spark_server import require_java


def test_an_address_where_nothing_listens_fails_in_seconds(tmp_path: Path) -> None:
    port = free_port()
    started = time.monotonic()
    with (
        pytest.raises(
            EngineUnavailableError, match=rf"no Spark Connect server answers at 127\.0\.0\.1:{port}"
        ),
        open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE=f"sc://127.0.0.1:{port}")),
    ):
        pass
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("remote", ["spark://x:7077", "yarn", "sc://host:port"])
def test_another_kind_of_address_names_the_right_ones(tmp_path: Path, remote: str) -> None:
    with (
        pytest.raises(UsageError, match=r"SPARK_REMOTE="),
        open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE=remote)),
    ):
        pass


@pytest.mark.parametrize(
    "remote", ["sc://host:15002;token=SECRET", "sc:/host/;token=SECRET", "sc://:15002/;token=SECRET"]
)
def test_a_malformed_address_does_not_show_its_token(tmp_path: Path, remote: str) -> None:
    with (
        pytest.raises(UsageError, match=r"SPARK_REMOTE=(?!.*SECRET)") as raised,
        open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE=remote)),
    ):
        pass
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("end", ["SECRET", ";SECRET", ";token=SE=CRET"])
def test_an_address_that_only_the_client_finds_malformed_does_not_either(tmp_path: Path, end: str) -> None:
    """Where something listens, PySpark's client reads the rest of the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        remote = f"sc://127.0.0.1:{server.getsockname()[1]}/{end}"
        with (
            pytest.raises(UsageError, match="is not an address") as raised,
            open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE=remote)),
        ):
            pass
    assert "CRET" not in str(raised.value)


def test_an_engine_that_cannot_be_reached_says_so_and_ends(tmp_path: Path) -> None:
    """In a network without loopback the server starts, and its client would wait for minutes."""
    code = (
        "from pathlib import Path; from k2_ohlcv.engine.session import open_engine\n"
        "from k2_ohlcv_tests.support import lakes\n"
        f"with open_engine(lakes.lake_settings(Path({str(tmp_path)!r}))): pass"
    )
    alone = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no network namespace can be made here")
    done = subprocess.run(
        [*alone, sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "EngineUnavailableError: the engine in this process cannot be reached at 127.0.0.1" in done.stderr


def test_local_spark_without_java_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with (
        pytest.raises(EngineUnavailableError, match="needs Java 17 or 21"),
        open_engine(lakes.lake_settings(tmp_path, SPARK_REMOTE="local[2]")),
    ):
        pass


def test_local_spark_gets_the_same_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded one, or what PyIceberg is configured with; the jars as files."""
    monkeypatch.setenv("JAVA_HOME", "/somewhere")
    monkeypatch.setattr(
        local_spark, "fetch_spark_jars", lambda packages: [Path("/jars") / p for p in packages]
    )
    settings = lakes.lake_settings(tmp_path, SPARK_REMOTE="local[2]")
    config = local_config(settings)
    assert config["spark.sql.catalog.k2.uri"] == f"jdbc:sqlite:{tmp_path / 'catalog.db'}"
    assert config["spark.jars"].startswith(f"/jars/{ICEBERG_RUNTIME},/jars/org.xerial:sqlite-jdbc:")
    assert "spark.jars.packages" not in config, "two processes would resolve them at once"
    monkeypatch.setenv("PYICEBERG_CATALOG__K2__URI", "postgresql+psycopg2://me:s%40cret@db/k2")
    config = local_config(settings)
    assert config["spark.sql.catalog.k2.uri"] == "jdbc:postgresql://db:5432/k2"
    assert config["spark.sql.catalog.k2.jdbc.password"] == "s@cret"


@pytest.mark.spark
@pytest.mark.system
def test_spark_on_this_machine_listens_on_loopback_and_tells_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once work, each at a port of its own. Whoever has no token is refused."""
    require_java()
    settings = lakes.lake_settings(tmp_path, SPARK_REMOTE="local[1]")
    lakes.drop_tables(lakes.open_lake(tmp_path))
    config = {"spark.sql.catalog.k2.jdbc.password": "SECRET"}
    earlier_children = psutil.Process().children()  # the server that other tests of this process share
    with open_engine(settings, config) as one, open_engine(settings) as other:
        for engine in (one, other):
            assert engine.spark.sql("select 1 as one").toArrow().to_pydict() == {"one": [1]}
        children = [p for p in psutil.Process().children() if p not in earlier_children]
        servers = [p for p in children if p.name() == "java"]
        listening = [c.laddr for p in servers for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
        assert len(servers) == 2
        assert listening
        assert {address.ip.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}
        assert not any("SECRET" in word for p in servers for word in p.cmdline())
        assert one.connection is not None
        port = one.connection.builder.endpoint.rpartition(":")[2]
        stranger = ServerConnection(f"sc://localhost:{port}", "it", "")
        with pytest.raises(Exception, match=r"(?i)unauthenticated|token"):
            stranger.open({"spark.sql.session.timeZone": "UTC"})
    assert not [p for p in servers if p.is_running()]


def test_a_session_ends_with_its_block_and_leaves_nothing(tmp_path: Path) -> None:
    with open_engine(lakes.lake_settings(tmp_path)) as engine:
        assert engine.spark.sql("select 1 as one").toArrow().to_pydict() == {"one": [1]}
        workspace, remote = engine.workspace, engine.spark.client._builder.endpoint
        assert workspace.is_dir()
    assert not workspace.exists()
    address, _, port = remote.partition(":")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address, int(port)), timeout=1)


def test_the_resource_starts_when_used_and_stops_with_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    resource = SparkResource()
    assert resource._engine is None
    assert resource.spark_session is resource.engine.spark
    workspace = resource.engine.workspace
    resource.teardown_after_execution(None)  # type: ignore[arg-type]
    assert not workspace.exists()
