"""Errors of databases and disks end a command with one sentence and exit code 1, without a traceback."""

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

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.defs.failures import error_message
from k2_ohlcv.domain.errors import StorageError
from k2_ohlcv.lake import embedded_catalog
from k2_ohlcv.lake.storage_errors import describe_storage_error
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.command_line import call
from k2_ohlcv_tests.support.servers import free_port


@pytest.fixture
def home(home: Path) -> Path:
    """A home with a trades table and Dagster's storage."""
    lakes.open_lake(home).writable_trades()
    with open_instance(lakes.lake_settings(home)):
        pass
    return home


@contextmanager
def lock_database(database: Path) -> Iterator[None]:
    """Hold an exclusive lock on the database in another connection."""
    connection = sqlite3.connect(database)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def error_text(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code, _, text = call(capsys, *arguments)
    assert code == 1
    assert "Traceback" not in text
    assert "SELECT" not in text
    return " ".join(text.split())


def test_a_locked_catalog_is_reported_as_busy(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_catalog, "BUSY_SECONDS", 0.2)
    with lock_database(home / "catalog.db"):
        text = error_text(capsys, "status")
    assert "error: the catalog: the database is busy" in text
    assert text.endswith("Run this again (database is locked)")


def test_the_catalog_waits_for_a_lock_for_the_configured_time() -> None:
    properties = embedded_catalog.embedded_properties(lakes.lake_settings(Path("/somewhere")))
    assert properties["uri"].endswith(f"?timeout={embedded_catalog.BUSY_SECONDS}")


@pytest.mark.parametrize("database", ["catalog.db", "dagster/history/runs.db"])
def test_a_file_that_is_no_database_is_reported(
    home: Path, capsys: pytest.CaptureFixture[str], database: str
) -> None:
    (home / database).write_bytes(os.urandom(5000))
    text = error_text(capsys, "rebuild", "--timeframe", "1h", "--from", "2024-01-01", "--to", "2024-01-02")
    assert "the file is no database, or is damaged" in text
    assert ("the catalog: " in text) is (database == "catalog.db")


def test_a_read_only_disk_is_reported(home: Path) -> None:
    """A mount namespace makes the home read-only, because root may write anywhere else."""
    script = 'mount --bind "$K2_HOME" "$K2_HOME" && mount -o remount,ro,bind "$K2_HOME" && exec "$0" "$@"'
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c", script]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system creates no mount namespace")
    for arguments in (["status"], ["ingest", __file__], ["rebuild"]):
        command = [*namespace, sys.executable, "-m", "k2_ohlcv.cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "read-only" in done.stderr or "Read-only" in done.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
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
def test_each_storage_error_is_described(error: Exception, expected: str) -> None:
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    description = describe_storage_error(wrapped)
    assert error_message(wrapped) == str(description)
    assert isinstance(description, StorageError)
    assert description.is_retryable
    assert expected in str(description)
    assert "SECRET" not in str(description)


@pytest.mark.parametrize(
    ("message", "expected"),
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
def test_each_refused_connection_of_postgres_is_described(message: str, expected: str) -> None:
    error = OperationalError(
        None, None, Exception(f'connection to server at "db", port 5432 failed: {message}')
    )
    description = describe_storage_error(error)
    assert description is not None
    assert expected in str(description)
    assert "\n" not in str(description)


def test_an_unreachable_catalog_on_postgres_is_reported(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one sentence. It names the catalog and hides the password."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PYICEBERG_CATALOG__K2__URI", f"postgresql+psycopg2://me:SECRET@{address}/k2")
    text = error_text(capsys, "status")
    assert text.startswith("error: the catalog: the database server does not answer. Start it or correct")
    assert "SECRET" not in text


def test_other_errors_are_not_described_as_storage_errors() -> None:
    for error in (
        ValueError("database is locked"),
        KeyError("x"),
        OSError(errno.EBADF, "bad"),
        AssertionError(),
    ):
        assert describe_storage_error(error) is None
    assert describe_storage_error(sqlite3.OperationalError("no such column: x")) is None
