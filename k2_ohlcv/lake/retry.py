"""Retries a commit after a conflict. Each attempt starts over from loading the table.

PyIceberg's own retry is off, because it applies a change computed from an older base to a newer one.
The commit itself is in `commit`.
"""

from collections.abc import Callable
from typing import TypeVar

import structlog
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table
from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from k2_ohlcv.domain.errors import CommitConflictError

#: The errors of a conflict: another writer committed to the table since it was loaded.
CONFLICT_ERRORS = (CommitFailedException, ValidationException)

#: Attempts of one commit. The commit of another writer takes well under a second.
MAX_ATTEMPTS = 8
#: Upper bounds of the random pauses, in seconds. The bound doubles with each attempt up to the maximum.
_MIN_PAUSE, _MAX_PAUSE = 0.2, 5.0

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


def retry_conflicts(
    load: Callable[[], Table],
    commit: Callable[[Table], _T],
    *,
    attempts: int | None = None,
    purpose: str = "",
    advice: str = "no data is lost. Run it again when fewer processes write to the table",
) -> _T:
    """Load a table and commit to it. A conflict starts over from the load.

    Args:
        load: loads the current version of the table from the catalog.
        commit: decides and commits against the given table only.
        attempts: the number of attempts; None means `MAX_ATTEMPTS`.
        purpose: the purpose of the attempts, for the error text.
        advice: the user's next step after the last conflict, for the error text.

    Returns:
        The result of the successful attempt.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    limit = MAX_ATTEMPTS if attempts is None else attempts
    name = ""

    def attempt() -> _T:
        nonlocal name
        table = load()
        name = table.name()[-1]
        return commit(table)

    try:
        return _retrying(limit, lambda state: _log_conflict(name, state))(attempt)
    except RetryError as last_conflict:
        during = f"during each of {limit} attempts{f' {purpose}' if purpose else ''}"
        message = f"other writers committed to {name} {during}; {advice}"
        raise CommitConflictError(message) from last_conflict


def _retrying(attempts: int, after: Callable[[RetryCallState], None]) -> Retrying:
    """A retry policy for conflicts. Random pauses let several writers alternate."""
    return Retrying(
        retry=retry_if_exception_type(CONFLICT_ERRORS),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=_MIN_PAUSE, max=_MAX_PAUSE),
        after=after,
    )


def _log_conflict(table: str, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.warning("conflict", table=table, attempt=state.attempt_number, error=str(error))
