"""The errors that a person can act on, under one base.

Each says what was wrong, where, and what to do. Errors of libraries that this project cannot explain
better are left as they are. Exit codes and Dagster's retry decisions are made from these types.
"""

from collections.abc import Mapping


class K2Error(Exception):
    """Base of every error that this project raises on purpose."""

    #: Whether the same call may succeed later without anyone changing anything.
    is_retryable = False


class UsageError(K2Error):
    """A command or setting was given a value that it does not take."""


class BadFileError(K2Error):
    """A landing file cannot be read as a whole: cut, empty, or of no known format."""


class TableSpecError(K2Error):
    """A table is not what its contract says: other columns, types or partitions."""


class MissingTableError(K2Error):
    """A table that is to be written is not in the catalog."""


class MissingTradesError(K2Error):
    """Candles were made from trades, and now there is no trades table or it has never had any."""


class InvariantError(K2Error):
    """A frame of candles breaks an invariant and was not committed.

    Attributes:
        checks: the names of the checks that it fails, with the number of rows that fail each.
    """

    def __init__(self, message: str, checks: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.checks = dict(checks or {})


class CheckFailedError(K2Error):
    """What is stored breaks a blocking check."""


class EngineUnavailableError(K2Error):
    """The Spark server that was asked for cannot be reached or started."""

    is_retryable = True


class StorageError(K2Error):
    """A database or disk that holds the catalog, the tables or Dagster's records fails."""

    is_retryable = True


class CommitConflictError(K2Error):
    """Other writers won every attempt to commit."""

    is_retryable = True


class RunInterruptedError(K2Error):
    """The process was told to stop in the middle of a run, by INT or TERM."""
