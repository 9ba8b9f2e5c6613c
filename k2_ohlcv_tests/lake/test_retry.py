"""The retry of commit conflicts: each attempt loads the table again."""

import pytest
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.lake import retry
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.lake.schemas import TRADES_SPEC


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are recorded and skipped."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def test_each_attempt_loads_the_table_again(lake: Lake, pauses: list[float]) -> None:
    """Both kinds of conflict are retried after a pause, never on an earlier attempt's table."""
    tables: list[Table] = []
    errors = [CommitFailedException("moved"), ValidationException("moved")]

    def commit(table: Table) -> int:
        tables.append(table)
        if errors:
            raise errors.pop()
        return 7

    assert retry_conflicts(lake.trades, commit) == 7
    assert len({id(table) for table in tables}) == 3
    assert len(pauses) == 2


def test_other_errors_are_raised_immediately(lake: Lake, pauses: list[float]) -> None:
    """A full disk is not retried."""
    calls: list[Table] = []

    def commit(table: Table) -> None:
        calls.append(table)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        retry_conflicts(lake.trades, commit)
    assert (len(calls), pauses) == (1, [])


def test_losing_every_race_raises(lake: Lake, pauses: list[float]) -> None:
    """The error names the table, the attempts and the advice. Pauses are bounded."""

    def commit(_: Table) -> None:
        raise CommitFailedException("moved")

    message = f"committed to {TRADES_SPEC.name} during each of 12 attempts of a test; go home"
    with pytest.raises(CommitConflictError, match=message):
        retry_conflicts(lake.trades, commit, attempts=12, purpose="of a test", advice="go home")
    assert len(pauses) == 11
    assert max(pauses) <= retry._MAX_PAUSE
