"""From errors to Dagster's failures: what a person must mend is not tried again a minute later."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from k2_ohlcv.domain.addresses import hide_secrets
from k2_ohlcv.domain.errors import K2Error
from k2_ohlcv.storage_errors import storage_error

#: A run with this tag has someone waiting for it, who would rather know at once than after two retries.
ATTENDED_TAG = "k2/attended"


@contextmanager
def explained(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Turn an error of this project into a failure with its message, retried only where that can help.

    Raises:
        Failure: the error can't pass by itself, or someone waits for the run. Any other error is left as it
            is, and the asset's retry policy applies.
    """
    try:
        yield
    except Exception as error:
        attended = ATTENDED_TAG in context.run.tags
        if attended or (isinstance(error, K2Error) and not error.retryable):
            raise dg.Failure(description=message(error), allow_retries=False) from error
        raise


def message(error: Exception) -> str:
    """What went wrong, in one paragraph; the kind of error too where it is not one of this project's."""
    known = error if isinstance(error, K2Error) else storage_error(error)
    return hide_secrets(str(known) if known else f"{type(error).__name__}: {error}")
