"""Turns errors into Dagster's failures. Only errors that may pass by themselves are retried."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pyiceberg.exceptions import CommitStateUnknownException, ServerError, ServiceUnavailableError

from k2_ohlcv.domain.addresses import redact_secrets
from k2_ohlcv.domain.errors import K2Error
from k2_ohlcv.lake.retry import CONFLICT_ERRORS
from k2_ohlcv.lake.storage_errors import describe_storage_error

#: A person waits for a run with this tag, so its errors are reported immediately, without retries.
INTERACTIVE_TAG = "k2/interactive"

#: Commit conflicts, and catalogs that are briefly overloaded.
_TRANSIENT_ERRORS = (
    *CONFLICT_ERRORS,
    CommitStateUnknownException,
    ServerError,
    ServiceUnavailableError,
    OSError,
)
#: Errors of the operating system that persist until a person changes something.
_PERMANENT_ERRORS = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
#: Transient errors by name, so that their libraries need not be loaded: a locked database, a lost server.
_TRANSIENT_NAMES = {
    "sqlite3.OperationalError",
    "sqlalchemy.exc.OperationalError",
    "sqlalchemy.exc.InterfaceError",
    "sqlalchemy.exc.TimeoutError",
    "grpc.RpcError",
    "pyspark.errors.exceptions.connect.RetriesExceeded",
    "pyspark.errors.exceptions.base.RetriesExceeded",
    "botocore.exceptions.HTTPClientError",
}


class InterruptedStepError(dg.DagsterExecutionInterruptedError, dg.DagsterError):
    """A step was told to stop. As an error of Dagster's own it ends the run, and no retry policy applies."""


# Executors with processes of their own tell an interrupted step from a broken one by this name.
InterruptedStepError.__name__ = dg.DagsterExecutionInterruptedError.__name__


@contextmanager
def convert_errors(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Turn an error into a failure with its message. Only transient errors are retried.

    Raises:
        Failure: the error is permanent, or a person waits for the run. A transient error passes unchanged,
            and the asset's retry policy applies.
        InterruptedStepError: the process received INT or TERM.
    """
    try:
        yield
    except (dg.Failure, dg.RetryRequested):
        raise
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as told:
        raise InterruptedStepError("interrupted") from told
    except Exception as error:
        if INTERACTIVE_TAG in context.run.tags or not is_transient(error):
            raise dg.Failure(description=error_message(error), allow_retries=False) from error
        raise


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later with no change by a person, judged by the error's type."""
    if isinstance(error, K2Error):
        return error.is_retryable
    if isinstance(error, _TRANSIENT_ERRORS):
        return not isinstance(error, _PERMANENT_ERRORS)
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return bool(names & _TRANSIENT_NAMES)


def error_message(error: Exception) -> str:
    """The error in one paragraph, with its type where it is not an error of this project."""
    known = error if isinstance(error, K2Error) else describe_storage_error(error)
    return redact_secrets(str(known) if known else f"{type(error).__name__}: {error}")
