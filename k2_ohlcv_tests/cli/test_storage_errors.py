"""A database that is busy, read-only, full or none at all is a sentence and exit code 1, no traceback."""

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from k2_ohlcv.cli import main
from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.defs.failures import error_message
from k2_ohlcv.domain.errors import StorageError
from k2_ohlcv.lake import embedded_catalog
from k2_ohlcv.lake.storage_errors import describe_storage_error
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.servers import free_port


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lake with its tables, and Dagster's storage."""
    monkeypatch.setenv("K2_HOME", str(tmp_path / "home"))
    for name in ("DAGSTER_HOME", "SPARK_REMOTE", "K2_LOG"):
        monkeypatch.delenv(name, raising=False)
    lakes.open_lake(tmp_path / "home").writable_trades()
    with open_instance(lakes.lake_settings(tmp_path / "home")):
        pass
    return tmp_path / "home"


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another connection holds the database."""
    connection = sqlite3.connect(database)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main.main(list(arguments))
    assert ended.value.code == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert "SELECT" not in text
    return " ".join(text.split())


def test_a_busy_catalog(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_catalog, "BUSY_SECONDS", 0.2)
    with locked(home / "catalog.db"):
        text = said(capsys, "status")
    assert "error: the catalog: the database is busy" in text
    assert text.endswith("Run this again (database is locked)")


def test_a_catalog_waits_for_others_as_long_as_it_is_told() -> None:
    properties = embedded_catalog.embedded_properties(lakes.lake_settings(Path("/somewhere")))
    assert properties["uri"].endswith(f"?timeout={embedded_catalog.BUSY_SECONDS}")


@pytest.mark.parametrize("database", ["catalog.db", "dagster/history/runs.db"])
def test_what_is_no_database(home: Path, capsys: pytest.CaptureFixture[str], database: str) -> None:
    (home / database).write_bytes(os.urandom(5000))
    text = said(capsys, "rebuild", "--timeframe", "1h", "--from", "2024-01-01", "--to", "2024-01-02")
    assert "the file is no database, or is damaged" in text
    assert ("the catalog: " in text) is (database == "catalog.db")


def test_a_read_only_disk(home: Path) -> None:
    """In a mount namespace in which the home is read-only; root may write anywhere else."""
    script = 'mount --bind "$K2_HOME" "$K2_HOME" && mount -o remount,ro,bind "$K2_HOME" && exec "$0" "$@"'
    alone = ["unshare", "--mount", "--map-root-user", "sh", "-c", script]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    for arguments in (["status"], ["ingest", __file__], ["rebuild"]):
        command = [*alone, sys.executable, "-m", "k2_ohlcv.cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "read-only" in done.stderr or "Read-only" in done.stderr


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "cannot be written"),
        (sqlite3.OperationalError("disk I/O error"), "the disk of the database fails"),
        (sqlite3.OperationalError("unable to open database file"), "cannot be opened"),
        (sqlite3.DatabaseError("database disk image is malformed"), "is damaged"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "/x/y: the disk is read-only"),
        (
            OperationalError("SELECT 1", {}, Exception("connection refused: postgresql://me:SECRET@db/k2")),
            "Dagster's storage: the database server does not answer",
        ),
    ],
)
def test_each_is_named_with_what_to_do(error: Exception, what: str) -> None:
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    found = describe_storage_error(wrapped)
    assert error_message(wrapped) == str(found)
    assert isinstance(found, StorageError)
    assert found.is_retryable
    assert what in str(found)
    assert "SECRET" not in str(found)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ('FATAL: password authentication failed for user "k2"', "refuses this user"),
        ('FATAL: role "k2" does not exist', "refuses this user"),
        ('FATAL: database "k2" does not exist', "has no such database"),
        ("server does not support SSL, but SSL was required", "the encrypted connection"),
        ("FATAL: sorry, too many clients already", "accepts no more connections"),
        ("FATAL: the database system is starting up", "is starting or stopping"),
        ("Connection refused\n\tIs the server running on that host?", "does not answer"),
    ],
)
def test_what_postgres_says_when_it_takes_no_connection(said: str, what: str) -> None:
    error = OperationalError(None, None, Exception(f'connection to server at "db", port 5432 failed: {said}'))
    found = describe_storage_error(error)
    assert found is not None
    assert what in str(found)
    assert "\n" not in str(found)


def test_a_catalog_on_postgres_that_is_not_there(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens: one sentence, without the password, and it says that it is the catalog."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PYICEBERG_CATALOG__K2__URI", f"postgresql+psycopg2://me:SECRET@{address}/k2")
    text = said(capsys, "status")
    assert text.startswith("error: the catalog: the database server does not answer. Start it or correct")
    assert "SECRET" not in text


def test_errors_of_ours_are_not_explained_away() -> None:
    for error in (
        ValueError("database is locked"),
        KeyError("x"),
        OSError(errno.EBADF, "bad"),
        AssertionError(),
    ):
        assert describe_storage_error(error) is None
    assert describe_storage_error(sqlite3.OperationalError("no such column: x")) is None
