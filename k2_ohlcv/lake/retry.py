"""One retry for every commit that loses a race: each attempt starts over from loading the table.

PyIceberg's own retry is off. It would put what was computed from an older base onto a newer one.
How to commit is in `commit`.
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

#: What a lost race raises: the table moved since it was loaded.
CONFLICT_ERRORS = (CommitFailedException, ValidationException)

#: Attempts of one commit. Another writer holds the table for well under a second.
MAX_ATTEMPTS = 8
#: Pauses are random, so that writers spread out. Their upper bound doubles from the first to the longest.
_MIN_PAUSE, _MAX_PAUSE = 0.2, 5.0

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


def retry_conflicts(
    load: Callable[[], Table],
    commit: Callable[[Table], _T],
    *,
    attempts: int | None = None,
    purpose: str = "",
    advice: str = "nothing is lost, run it again when fewer write at once",
) -> _T:
    """Load a table and commit to it, again from the load while other writers commit first.

    Args:
        load: loads the table, as the catalog has it now.
        commit: decides and commits against the table that it is given, and against no other.
        attempts: how many in all; `MAX_ATTEMPTS` where nothing is said.
        purpose: what the attempts are for, as the error says it.
        advice: what to do when every attempt was lost, as the error says it.

    Returns:
        What the attempt that succeeded returned.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    most = MAX_ATTEMPTS if attempts is None else attempts
    name = ""

    def attempt() -> _T:
        nonlocal name
        table = load()
        name = table.name()[-1]
        return commit(table)

    def log_conflict(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        _log.warning("conflict", table=name, attempt=state.attempt_number, error=str(error))

    retrying = Retrying(
        retry=retry_if_exception_type(CONFLICT_ERRORS),
        stop=stop_after_attempt(most),
        wait=wait_random_exponential(multiplier=_MIN_PAUSE, max=_MAX_PAUSE),
        after=log_conflict,
    )
    try:
        return retrying(attempt)
    except RetryError as lost:
        during = f"during each of {most} attempts{f' {purpose}' if purpose else ''}"
        raise CommitConflictError(f"other writers committed to {name} {during}; {advice}") from lost
