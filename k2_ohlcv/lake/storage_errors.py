"""Translates errors of databases and disks into a sentence with the cause and the next step.

Other errors are not translated. They may be faults of this project, and need their traceback.
"""

import errno
import re
import sqlite3
from collections.abc import Iterator

from k2_ohlcv.domain.addresses import redact_secrets
from k2_ohlcv.domain.errors import StorageError

_DISK_FULL = (
    "the disk is full. Free some space (k2-ohlcv retention reports data past retention), and run this again"
)
#: Patterns of the messages of SQLite and database drivers, each with its cause and the next step.
_MEANINGS = (
    (
        r"database (?:table )?is locked",
        "the database is busy: another process locks it for longer than the wait limit. Run this again",
    ),
    (
        r"readonly database|attempt to write a readonly",
        "the database cannot be written: the file or its folder is read-only. Give this user the right to "
        "write, or set K2_HOME to another folder",
    ),
    (
        r"database or disk is full",
        _DISK_FULL,
    ),
    (
        r"file is not a database|file is encrypted|malformed",
        "the file is no database, or is damaged. Restore the file from a copy, or move it away to start with "
        "an empty database",
    ),
    (
        r"unable to open database file",
        "the database cannot be opened. Check that its folder exists and that this user may write to it",
    ),
    (r"disk i/o error", "the disk of the database fails. Check the disk, and run this again"),
    (
        r"authentication failed|no password supplied|no pg_hba\.conf entry|role .* does not exist|"
        r"permission denied for",
        "the database server refuses this user. Correct the user and the password in its address, or give "
        "the user the right, and run this again",
    ),
    (
        r"database \".*\" does not exist",
        "the database server has no such database. Create it, or correct its name in the address",
    ),
    (
        r"ssl was required|does not support ssl|certificate|sslmode",
        "the encrypted connection to the database server fails. Correct sslmode and the certificates in its "
        "address",
    ),
    (
        r"too many (?:clients|connections)|remaining connection slots",
        "the database server accepts no more connections. Raise its limit, or run fewer processes",
    ),
    (
        r"is starting up|is shutting down|in recovery mode|administrator command|not accepting connections",
        "the database server is starting or stopping. Run this again when the server is up",
    ),
    (
        r"connection refused|could not connect|could not translate host|server closed the connection|"
        r"connection timed out|timeout expired|network is unreachable|no route to host|"
        r"connection (?:already|is) closed|could not receive data|could not send data",
        "the database server does not answer. Start it or correct its address, and run this again",
    ),
)
_CATALOG, _DAGSTER = "the catalog: ", "Dagster's storage: "
_ERRNOS = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: "this user's disk quota is used up. Free some space, and run this again",
    errno.EROFS: "the disk is read-only. Set K2_HOME to a writable folder",
    errno.EACCES: "this user has no permission. Give the user the right, or set K2_HOME to another folder",
}


def describe_storage_error(error: BaseException) -> StorageError | None:
    """Describe a database or disk error in a sentence. None where neither the error nor a cause is one."""
    for cause in _causes(error):
        meaning = _meaning(cause)
        if meaning is not None:
            original = redact_secrets(" ".join(str(getattr(cause, "orig", None) or cause).split()))
            return StorageError(f"{_storage_name(cause)}{meaning} ({original})")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _meaning(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        return _ERRNOS.get(error.errno or 0)
    if isinstance(error, sqlite3.Error) or type(error).__module__.startswith(("sqlalchemy.", "psycopg")):
        text = str(getattr(error, "orig", None) or error).lower()
        for pattern, meaning in _MEANINGS:
            if re.search(pattern, text):
                return meaning
    return None


def _storage_name(error: BaseException) -> str:
    """The name of the failed storage. The table in a SQL statement tells which database it is."""
    if isinstance(error, OSError):
        return f"{error.filename}: " if error.filename else ""
    statement = str(getattr(error, "statement", None) or "")
    if statement:
        return _CATALOG if "iceberg_" in statement else _DAGSTER
    return _storage_of_caller(error)


def _storage_of_caller(error: BaseException) -> str:
    """The name of the failed storage, by the last library in the traceback.

    A failed connection has no SQL statement.
    """
    name, trace = "", error.__traceback__
    while trace is not None:
        library = str(trace.tb_frame.f_globals.get("__name__", "")).split(".", 1)[0]
        if library == "pyiceberg":
            name = _CATALOG
        elif library in {"dagster", "dagster_postgres"}:
            name = _DAGSTER
        trace = trace.tb_next
    return name
