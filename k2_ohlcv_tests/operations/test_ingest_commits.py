"""Commits of ingestion beside other writers. Each commit needs the base that was searched for duplicates."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import PyArrowFileIO

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.lake import append
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support.crash import interrupt_lookups
from k2_ohlcv_tests.support.ingested import IngestNumbers, count_trades_files, list_trade_ids


def test_pyiceberg_refuses_an_append_on_a_moved_head(lake: Lake, ingest_numbers: IngestNumbers) -> None:
    """Ingestion relies on this: without PyIceberg's retries, the second of two appends fails."""
    ingest_numbers(1)
    stale = lake.trades()
    rows = stale.scan().to_arrow()
    ingest_numbers(2)
    with pytest.raises(CommitFailedException):
        stale.append(rows)
    empty_base = lake.writable_rejected()
    empty = empty_base.schema().as_arrow().empty_table()
    lake.rejected().append(empty)
    with pytest.raises(CommitFailedException):
        empty_base.append(empty)


@pytest.mark.each_store
def test_another_commit_repeats_the_search(
    lake: Lake, ingest_numbers: IngestNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trades of the other writer become duplicates, and the files of the first attempt are removed."""
    calls = interrupt_lookups(monkeypatch, lambda: ingest_numbers(2, 3))
    assert ingest_numbers(1, 2) == 1
    assert calls[0] == 2
    assert list_trade_ids(lake) == [1, 2, 3]
    assert count_trades_files(lake) == 2
    assert len(lake.trades().snapshots()) == 2


def test_a_store_that_refuses_to_remove_files_fails_no_append(
    lake: Lake, ingest_numbers: IngestNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the lost attempt stays until orphan files are removed."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "ACCESS_DENIED during DeleteObject")

    interrupt_lookups(monkeypatch, lambda: ingest_numbers(2, 3))
    monkeypatch.setattr(PyArrowFileIO, "delete", refuse)
    assert ingest_numbers(1, 2) == 1
    assert list_trade_ids(lake) == [1, 2, 3]
    assert count_trades_files(lake) == 3


def test_files_are_written_once_if_no_trade_is_a_duplicate(
    lake: Lake, ingest_numbers: IngestNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a lost race only the search and the commit are repeated."""
    writes: list[object] = []
    write = append.write_files
    interrupt_lookups(monkeypatch, lambda: ingest_numbers(100 + len(writes)), times=3)

    def count_writes(*arguments: Any) -> Any:
        writes.append(arguments)
        return write(*arguments)

    monkeypatch.setattr(append, "write_files", count_writes)
    assert ingest_numbers(1, 2) == 2
    assert len(writes) == 1 + 3
    assert len(list_trade_ids(lake)) == 5


def test_a_writer_that_loses_every_race_fails(
    lake: Lake, ingest_numbers: IngestNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is retryable, no trade is added, and no file stays."""
    monkeypatch.setattr(append, "MAX_APPEND_ATTEMPTS", 3)
    numbers = iter(range(100, 200))
    interrupt_lookups(monkeypatch, lambda: ingest_numbers(next(numbers)), times=99)
    with pytest.raises(CommitConflictError, match="3 attempts") as caught:
        ingest_numbers(1)
    assert caught.value.is_retryable
    assert list_trade_ids(lake) == [100, 101, 102]
    assert count_trades_files(lake) == 3


def test_a_replaced_table_is_not_committed_to(
    lake: Lake, ingest_numbers: IngestNumbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that were written for the old table are not added to its replacement."""
    ingest_numbers(1)

    def replace() -> None:
        lake.catalog.drop_table(lake.trades().name())
        lake.trades()

    interrupt_lookups(monkeypatch, replace)
    assert ingest_numbers(1, 2) == 2
    assert list_trade_ids(lake) == [1, 2]


def test_ingested_at_is_stored_in_utc(lake: Lake, ingest_numbers: IngestNumbers) -> None:
    """The stored time is near the present."""
    ingest_numbers(1)
    (ingested_at,) = lake.trades().scan().to_arrow()["ingested_at"].to_pylist()
    assert abs(datetime.now(UTC) - ingested_at).total_seconds() < 60
