"""One retry for every commit: each attempt starts from the table as it is then."""

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
    """The pauses between attempts. None is made."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


def test_each_attempt_gets_a_table_of_its_own_load(lake: Lake, pauses: list[float]) -> None:
    """Both kinds of conflict are tried again, after a pause, and never on the table of an earlier attempt."""
    seen: list[Table] = []
    errors = [CommitFailedException("moved"), ValidationException("moved")]

    def commit(table: Table) -> int:
        seen.append(table)
        if errors:
            raise errors.pop()
        return 7

    assert retry_conflicts(lake.trades, commit) == 7
    assert len({id(table) for table in seen}) == 3
    assert len(pauses) == 2


def test_what_is_no_conflict_is_raised_at_once(lake: Lake, pauses: list[float]) -> None:
    calls: list[Table] = []

    def commit(table: Table) -> None:
        calls.append(table)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        retry_conflicts(lake.trades, commit)
    assert (len(calls), pauses) == (1, [])


def test_who_loses_every_race_is_told(lake: Lake, pauses: list[float]) -> None:
    """The error names the table, the attempts and what to do, and pauses stay bounded."""

    def commit(_: Table) -> None:
        raise CommitFailedException("moved")

    message = f"committed to {TRADES_SPEC.name} during each of 12 attempts of a test; go home"
    with pytest.raises(CommitConflictError, match=message):
        retry_conflicts(lake.trades, commit, attempts=12, purpose="of a test", advice="go home")
    assert len(pauses) == 11
    assert max(pauses) <= retry._MAX_PAUSE
