"""Errors that a person can act on, with one base class.

Each message names the fault, the place and the remedy. Library errors that this project cannot explain
better do not belong here. Exit codes and Dagster's retry decisions depend on these types.
"""

from collections.abc import Mapping


class K2Error(Exception):
    """Base class of every error that this project raises on purpose."""

    #: Whether the same call may succeed later without any change by a person.
    is_retryable = False


class UsageError(K2Error):
    """A command or setting has an invalid value."""


class BadFileError(K2Error):
    """A landing file cannot be read as a whole: it is truncated, empty or of an unknown format."""


class TableSpecError(K2Error):
    """A table differs from its specification in columns, types or partitions."""


class MissingTableError(K2Error):
    """The catalog does not have a table that must be written."""


class MissingTradesError(K2Error):
    """Candles exist, but the trades table is missing or has never had trades."""


class CatalogRestoreError(K2Error):
    """A table cannot be restored from the warehouse without a decision."""


class InvariantError(K2Error):
    """A frame of candles breaks an invariant and was not committed.

    Attributes:
        checks: names of the failed checks, each with the number of rows that fail the check.
    """

    def __init__(self, message: str, checks: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.checks = dict(checks or {})


class CheckFailedError(K2Error):
    """Stored candles fail a blocking check."""


class EngineUnavailableError(K2Error):
    """The configured Spark server cannot be reached or started."""

    is_retryable = True


class StorageError(K2Error):
    """The database or disk of the catalog, the tables or Dagster's records fails."""

    is_retryable = True


class CommitConflictError(K2Error):
    """Other writers won every attempt to commit."""

    is_retryable = True


class RunInterruptedError(K2Error):
    """The process was told to stop in the middle of a run, by INT or TERM."""
