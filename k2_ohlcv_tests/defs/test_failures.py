"""What waiting cannot cure is not tried again."""

import sqlite3

import dagster as dg
import pytest
import sqlalchemy.exc
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError

from k2_ohlcv.defs.failures import INTERACTIVE_TAG, convert_errors, is_transient
from k2_ohlcv.domain.errors import CommitConflictError, EngineUnavailableError, InvariantError, TableSpecError

# Dagster 1.13 reads a pydantic attribute that pydantic 2.14 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

PASSING = [
    CommitConflictError("others won"),
    EngineUnavailableError("no server"),
    CommitFailedException("moved"),
    ConnectionResetError("gone"),
    TimeoutError("late"),
    sqlite3.OperationalError("database is locked"),
    sqlalchemy.exc.OperationalError("", {}, sqlite3.OperationalError("database is locked")),
]
LASTING = [
    TableSpecError("other columns"),
    InvariantError("wrong"),
    OverflowError("date value out of range"),
    ValueError("equality deletes"),
    ZeroDivisionError("divide by zero"),
    PermissionError("not yours"),
    NoSuchTableError("gone"),
    AssertionError("no"),
]


def runs(error: Exception, **tags: str) -> int:
    """How often a step is tried that raises the error."""
    tried = 0

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=2))
    def step(context: dg.OpExecutionContext) -> None:
        nonlocal tried
        tried += 1
        with convert_errors(context):
            raise error

    @dg.job
    def job() -> None:
        step()

    assert not job.execute_in_process(raise_on_error=False, tags=tags).success
    return tried


@pytest.mark.parametrize("error", PASSING, ids=lambda e: type(e).__name__)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", LASTING, ids=lambda e: type(e).__name__)
def test_what_does_not_pass_is_not(error: Exception) -> None:
    assert not is_transient(error)


def test_steps_are_tried_so_often() -> None:
    """Three times where waiting may help and nobody waits for the run; else once."""
    assert runs(CommitConflictError("others won")) == 3
    assert runs(OverflowError("date value out of range")) == 1
    assert runs(CommitConflictError("others won"), **{INTERACTIVE_TAG: "true"}) == 1


@pytest.mark.parametrize("told", [KeyboardInterrupt, dg.DagsterExecutionInterruptedError])
def test_a_step_that_is_told_to_stop_ends_its_run(told: type[BaseException]) -> None:
    """It is not tried again, and no other step begins."""
    begun: list[str] = []

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=60))
    def step(context: dg.OpExecutionContext) -> None:
        begun.append(context.op_handle.name)
        with convert_errors(context):
            raise told

    @dg.job
    def job() -> None:
        step.alias("one")()
        step.alias("two")()

    assert not job.execute_in_process(raise_on_error=False).success
    assert len(begun) == 1
