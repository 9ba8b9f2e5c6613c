"""Which errors are transient, and how often a step with an error is tried."""

import sqlite3

import dagster as dg
import pytest
import sqlalchemy.exc
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError

from k2_ohlcv.defs.failures import INTERACTIVE_TAG, convert_errors, is_transient
from k2_ohlcv.domain.errors import CommitConflictError, EngineUnavailableError, InvariantError, TableSpecError

TRANSIENT = [
    CommitConflictError("others won"),
    EngineUnavailableError("no server"),
    CommitFailedException("moved"),
    ConnectionResetError("gone"),
    TimeoutError("late"),
    sqlite3.OperationalError("database is locked"),
    sqlalchemy.exc.OperationalError("", {}, sqlite3.OperationalError("database is locked")),
]
PERMANENT = [
    TableSpecError("other columns"),
    InvariantError("wrong"),
    OverflowError("date value out of range"),
    ValueError("equality deletes"),
    ZeroDivisionError("divide by zero"),
    PermissionError("not yours"),
    NoSuchTableError("gone"),
    AssertionError("no"),
]


def count_tries(error: Exception, **tags: str) -> int:
    """Count the tries of a step that raises the error."""
    tries = 0

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=2))
    def step(context: dg.OpExecutionContext) -> None:
        nonlocal tries
        tries += 1
        with convert_errors(context):
            raise error

    @dg.job
    def job() -> None:
        step()

    assert not job.execute_in_process(raise_on_error=False, tags=tags).success
    return tries


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda e: type(e).__name__)
def test_errors_that_may_pass_are_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", PERMANENT, ids=lambda e: type(e).__name__)
def test_errors_that_do_not_pass_are_not_transient(error: Exception) -> None:
    assert not is_transient(error)


def test_only_transient_errors_of_unattended_runs_are_retried() -> None:
    """A step is tried three times for a transient error, unless a user waits for the run. Else once."""
    assert count_tries(CommitConflictError("others won")) == 3
    assert count_tries(OverflowError("date value out of range")) == 1
    assert count_tries(CommitConflictError("others won"), **{INTERACTIVE_TAG: "true"}) == 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, dg.DagsterExecutionInterruptedError])
def test_an_interrupted_step_ends_its_run(interruption: type[BaseException]) -> None:
    """It is not tried again, and no other step begins."""
    begun: list[str] = []

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=60))
    def step(context: dg.OpExecutionContext) -> None:
        begun.append(context.op_handle.name)
        with convert_errors(context):
            raise interruption

    @dg.job
    def job() -> None:
        step.alias("one")()
        step.alias("two")()

    assert not job.execute_in_process(raise_on_error=False).success
    assert len(begun) == 1
