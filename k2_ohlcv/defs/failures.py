"""From errors to Dagster's failures: only what can pass by itself is tried again a minute later."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pyiceberg.exceptions import CommitStateUnknownException, ServerError, ServiceUnavailableError

from k2_ohlcv.domain.addresses import hide_secrets
from k2_ohlcv.domain.errors import K2Error
from k2_ohlcv.lake.retry import CONFLICTS
from k2_ohlcv.storage_errors import storage_error

#: A run with this tag has someone waiting for it, who would rather know at once than after two retries.
ATTENDED_TAG = "k2/attended"

#: Lost races, and catalogs that are overloaded for a moment.
_PASSING = (*CONFLICTS, CommitStateUnknownException, ServerError, ServiceUnavailableError, OSError)
#: Errors of the operating system that stay until somebody changes something.
_LASTING = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
#: The same of libraries that need not be loaded here: a locked database, a server that is gone for a moment.
_PASSING_NAMES = {
    "sqlite3.OperationalError",
    "sqlalchemy.exc.OperationalError",
    "sqlalchemy.exc.InterfaceError",
    "sqlalchemy.exc.TimeoutError",
    "grpc.RpcError",
    "pyspark.errors.exceptions.connect.RetriesExceeded",
    "pyspark.errors.exceptions.base.RetriesExceeded",
    "botocore.exceptions.HTTPClientError",
}


@contextmanager
def explained(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Turn an error into a failure with its message, retried only where waiting can help.

    Raises:
        Failure: the error does not pass by itself, or someone waits for the run. An error that may pass is
            left as it is, and the asset's retry policy applies.
    """
    try:
        yield
    except (dg.Failure, dg.RetryRequested):
        raise
    except Exception as error:
        if ATTENDED_TAG in context.run.tags or not may_pass(error):
            raise dg.Failure(description=message(error), allow_retries=False) from error
        raise


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later without anyone changing anything, as far as its type tells."""
    if isinstance(error, K2Error):
        return error.retryable
    if isinstance(error, _PASSING):
        return not isinstance(error, _LASTING)
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return bool(names & _PASSING_NAMES)


def message(error: Exception) -> str:
    """What went wrong, in one paragraph; the kind of error too where it is not one of this project's."""
    known = error if isinstance(error, K2Error) else storage_error(error)
    return hide_secrets(str(known) if known else f"{type(error).__name__}: {error}")
