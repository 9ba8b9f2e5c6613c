"""No secret of the configuration is in output, logs, Dagster's storage, the catalog or the tables' metadata.

A marker stands in every place that takes a secret. The commands run in processes of their own, in text and in
JSON logs, with parts that work and with parts that fail.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.command_line import ROOT, run, write_trades_csv
from k2_ohlcv_tests.support.servers import S3, configure, free_port, postgres_server

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("s3")]

#: It is in every secret, and in nothing else.
MARKER = "hunter2marker"
ROWS = ("2024-02-27T01:00:00Z,1,1,a", "2024-02-28T01:00:00Z,2,1,b", "not a time,1,1,c")
MARKET = ("--exchange", "E", "--symbol", "S")


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URI of a Postgres server, which takes any password."""
    with postgres_server() as uri:
        yield uri.replace("postgres@", f"postgres:{MARKER}-p%40ss;w'rd@")


@pytest.fixture
def properties(s3: S3, bucket: str, postgres: str) -> dict[str, str]:
    """The properties of a catalog in Postgres and a warehouse on S3. The S3 server takes any keys."""
    return {
        "type": "sql",
        "uri": postgres,
        "warehouse": f"s3://{bucket}/warehouse",
        **s3.properties(),
        "s3.access-key-id": f"{MARKER}key",
        "s3.secret-access-key": f"{MARKER}secret",
        "s3.session-token": f"{MARKER}session",
        "token": f"{MARKER}token",
        "credential": f"id:{MARKER}credential",
        "header.Authorization": f"Bearer {MARKER}header",
    }


@pytest.fixture
def home(tmp_path: Path, properties: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """`K2_HOME`, with the catalog's properties in the environment."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "K2_", "SPARK_"))]:
        monkeypatch.delenv(name)
    configure(monkeypatch, properties)
    monkeypatch.setenv("K2_HOME", str(tmp_path / "home"))
    lakes.drop_tables(Lake.open(Settings.from_environ()))
    return tmp_path / "home"


def assert_no_secret(output: str) -> None:
    at = output.find(MARKER)
    assert at < 0, output[max(0, at - 300) : at + 100]


def call(*arguments: str, code: int = 0, **environ: str) -> str:
    """Run a command and look for the marker in its output."""
    done = run(*arguments, **environ)
    assert_no_secret(done.stdout + done.stderr)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def assert_none_stored(home: Path, postgres: str) -> None:
    """Search the files of the home, the catalog's rows, and the metadata of the tables."""
    for path in home.rglob("*"):
        if path.is_file():
            assert MARKER.encode() not in path.read_bytes(), path
    lake = Lake.open(Settings.from_environ())
    with create_engine(postgres).connect() as connection:
        for name in ("iceberg_tables", "iceberg_namespace_properties"):
            assert_no_secret(str(connection.execute(text(f"select * from {name}")).all()))
    for table in (lake.trades(), lake.rejected()):
        for location in lakes.files_of(table):
            with table.io.new_input(location).open() as stream:
                assert MARKER.encode() not in stream.read(), location


def test_no_secret_is_shown_or_stored(home: Path, postgres: str, tmp_path: Path) -> None:
    """Commands that work, and commands whose Spark, S3 or Postgres does not answer."""
    file = write_trades_csv(tmp_path / "files", *ROWS)
    call("ingest", str(file), *MARKET)
    call("refresh", "--timeframe", "1d")
    call("retention", "--apply", K2_LOG="json")
    call("catalog", "restore", "--apply")
    call("status", K2_LOG="json")
    closed = f"127.0.0.1:{free_port()}"
    remote = f"sc://{closed}/;token={MARKER}spark"
    assert "error" in call("rebuild", "--timeframe", "1d", code=1, SPARK_REMOTE=remote)
    call("rebuild", "--timeframe", "1d", code=1, SPARK_REMOTE=remote, K2_LOG="json")
    dead = f"http://user:{MARKER}@{closed}"
    call("rebuild", "--timeframe", "1d", code=1, PYICEBERG_CATALOG__K2__S3__ENDPOINT=dead)
    host = postgres.partition("@")[2]
    dead = postgres.replace(host, f"{closed}/k2")
    call("refresh", "--timeframe", "1d", code=1, PYICEBERG_CATALOG__K2__URI=dead, K2_LOG="json")
    assert_none_stored(home, postgres)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPARK_REMOTE", f"yarn://me:{MARKER}@host"),
        ("SPARK_REMOTE", f"sc://host:port/;token={MARKER}"),
        ("PYICEBERG_CATALOG__K2__URI", f"nonsense://me:{MARKER}@host/k2"),
        ("PYICEBERG_CATALOG__K2__URI", f"postgresql+psycopg2://me:{MARKER}@host:port/k2"),
        ("PYICEBERG_CATALOG__K2__WAREHOUSE", f"s3://key:{MARKER}@bucket/warehouse"),
    ],
)
def test_no_secret_of_an_invalid_address_is_shown(home: Path, tmp_path: Path, name: str, value: str) -> None:
    """The command fails, and its traceback, if it has one, is without the secret."""
    file = write_trades_csv(tmp_path / "files", *ROWS)
    is_of_spark = name == "SPARK_REMOTE"
    if is_of_spark:
        call("ingest", str(file), *MARKET)
    arguments = ("rebuild", "--timeframe", "1d") if is_of_spark else ("ingest", str(file), *MARKET)
    done = run(*arguments, **{name: value})
    assert done.returncode != 0
    assert_no_secret(done.stdout + done.stderr)
    for path in home.rglob("*"):
        assert path.is_dir() or MARKER.encode() not in path.read_bytes(), path


def test_no_process_has_a_secret_in_its_arguments(home: Path, tmp_path: Path) -> None:
    """Every user of the machine can list arguments, but not the environment."""
    file = write_trades_csv(tmp_path / "files", *ROWS)
    call("ingest", str(file), *MARKET)
    program = (
        "import psutil\n"
        "from k2_ohlcv.engine.session import open_engine\n"
        "from k2_ohlcv.settings import Settings\n"
        "with open_engine(Settings.from_environ()):\n"
        "    me = psutil.Process()\n"
        "    print([p.cmdline() for p in (me, *me.children(recursive=True))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "open_engine" in done.stdout
    assert_no_secret(done.stdout)
