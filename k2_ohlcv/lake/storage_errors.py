"""From the errors of databases and disks to one sentence: what is wrong with the storage, and what to do.

Every other error is left as it is: it may be a fault of ours, and its traceback is what helps to find that.
"""

import errno
import re
import sqlite3
from collections.abc import Iterator

from k2_ohlcv.domain.addresses import redact_secrets
from k2_ohlcv.domain.errors import StorageError

_DISK_FULL = "the disk is full. Free some space (k2-ohlcv retention says what would go), and run this again"
#: By what SQLite or the database's driver says: what it means, and what to do.
_MEANINGS = (
    (
        r"database (?:table )?is locked",
        "the database is busy: another process has held it for longer than we wait. Run this again",
    ),
    (
        r"readonly database|attempt to write a readonly",
        "the database cannot be written: it, or its folder, is read-only. Give this user the right to write, "
        "or set K2_HOME to another folder",
    ),
    (
        r"database or disk is full",
        _DISK_FULL,
    ),
    (
        r"file is not a database|file is encrypted|malformed",
        "the file is no database, or is damaged. Restore it from a copy, or move it away to begin with an "
        "empty one",
    ),
    (
        r"unable to open database file",
        "the database cannot be opened. See that its folder is there and that this user may write to it",
    ),
    (r"disk i/o error", "the disk that holds the database fails. See to the disk, and run this again"),
    (
        r"authentication failed|no password supplied|no pg_hba\.conf entry|role .* does not exist|"
        r"permission denied for",
        "the database server does not let this user in. Correct the user and the password in its address, or "
        "give the user the right, and run this again",
    ),
    (
        r"database \".*\" does not exist",
        "the database server has no such database. Create it, or correct its name in the address",
    ),
    (
        r"ssl was required|does not support ssl|certificate|sslmode",
        "no encrypted connection to the database server can be made. Correct sslmode and the certificates in "
        "its address",
    ),
    (
        r"too many (?:clients|connections)|remaining connection slots",
        "the database server takes no more connections. Have it take more, or run less at once",
    ),
    (
        r"is starting up|is shutting down|in recovery mode|administrator command|not accepting connections",
        "the database server is being started or stopped. Run this again when it is up",
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
    errno.EDQUOT: "this user's share of the disk is used up. Free some space, and run this again",
    errno.EROFS: "the disk is read-only. Set K2_HOME to a folder that can be written",
    errno.EACCES: "this user may not do that there. Give it the right, or set K2_HOME to another folder",
}


def describe_storage_error(error: BaseException) -> StorageError | None:
    """The error in one sentence, where it or one of its causes is that of a database or a disk; else None."""
    for cause in _causes(error):
        meaning = _meaning(cause)
        if meaning is not None:
            said = redact_secrets(" ".join(str(getattr(cause, "orig", None) or cause).split()))
            return StorageError(f"{_place(cause)}{meaning} ({said})")
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


def _place(error: BaseException) -> str:
    """Which database it was, by the table that was asked for: the catalog's have names of their own."""
    if isinstance(error, OSError):
        return f"{error.filename}: " if error.filename else ""
    statement = str(getattr(error, "statement", None) or "")
    if statement:
        return _CATALOG if "iceberg_" in statement else _DAGSTER
    return _caller(error)


def _caller(error: BaseException) -> str:
    """Which database it was where no connection was made: by the library that asked for it last."""
    place, trace = "", error.__traceback__
    while trace is not None:
        library = str(trace.tb_frame.f_globals.get("__name__", "")).split(".", 1)[0]
        if library == "pyiceberg":
            place = _CATALOG
        elif library in {"dagster", "dagster_postgres"}:
            place = _DAGSTER
        trace = trace.tb_next
    return place
