"""The windows of the next chunk are computed while the caller commits those of the last one."""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.operations.compute_ahead import compute_ahead

MIDNIGHT = datetime(2024, 2, 28, tzinfo=UTC)
CHUNKS = [
    [Interval(MIDNIGHT + timedelta(hours=hour), MIDNIGHT + timedelta(hours=hour + 1))] for hour in range(4)
]
#: Seconds until a missing event is a failure.
PATIENCE = 60.0


class RecordedChunks:
    """Chunks that record the results that they get."""

    def __init__(self) -> None:
        self.results: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[list[Interval]]:
        return iter(CHUNKS)

    def add_result(self, trades: int, windows: int) -> None:
        self.results.append((trades, windows))


@pytest.fixture
def chunks() -> Any:
    return RecordedChunks()


def windows_of(chunk: Sequence[Interval]) -> pa.Table:
    """As many windows as the hour of the chunk, of three trades each."""
    return pa.table({"trade_count": pa.array([3] * chunk[0].start.hour, pa.int64())})


def test_chunks_come_in_order_with_their_windows(chunks: Any) -> None:
    """Each result is added, so that the size of later chunks follows."""
    with compute_ahead(chunks, windows_of) as ahead:
        found = list(ahead)
    assert [chunk for chunk, _ in found] == CHUNKS
    assert [windows.num_rows for _, windows in found if windows is not None] == [0, 1, 2, 3]
    assert chunks.results == [(0, 0), (3, 1), (6, 2), (9, 3)]


def test_the_next_chunk_is_computed_while_the_caller_has_the_last_one(chunks: Any) -> None:
    """But not the one after the next: memory is bounded by two chunks."""
    begun = {chunk[0]: threading.Event() for chunk in CHUNKS}

    def compute(chunk: Sequence[Interval]) -> pa.Table:
        begun[chunk[0]].set()
        return windows_of(chunk)

    with compute_ahead(chunks, compute) as ahead:
        next(ahead)
        assert begun[CHUNKS[1][0]].wait(PATIENCE)
        next(ahead)
        assert begun[CHUNKS[2][0]].wait(PATIENCE)
        assert not begun[CHUNKS[3][0]].is_set()


def test_windows_that_the_caller_computes_add_no_result(chunks: Any) -> None:
    """The caller adds the result."""
    with compute_ahead(chunks, lambda _: None) as ahead:
        found = list(ahead)
    assert [windows for _, windows in found] == [None] * 4
    assert not chunks.results


def test_an_error_ends_the_iteration_after_the_chunks_before(chunks: Any) -> None:
    """The chunks before are committed as without the error."""

    def compute(chunk: Sequence[Interval]) -> pa.Table:
        if chunk == CHUNKS[2]:
            raise FileNotFoundError("gone")
        return windows_of(chunk)

    found: list[Sequence[Interval]] = []
    with pytest.raises(FileNotFoundError, match="gone"), compute_ahead(chunks, compute) as ahead:
        found.extend(chunk for chunk, _ in ahead)
    assert found == CHUNKS[:2]


@pytest.mark.parametrize(("error", "waits"), [(ValueError, True), (KeyboardInterrupt, False)])
def test_an_error_of_the_caller_waits_for_the_chunk_that_is_computed(
    chunks: Any, error: type[BaseException], *, waits: bool
) -> None:
    """The next attempt then has all memory. An interruption ends at once, whatever the engine does."""
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def compute(chunk: Sequence[Interval]) -> pa.Table:
        if chunk == CHUNKS[1]:
            begun.set()
            go_on.wait(PATIENCE)
            done.set()
        assert chunk in CHUNKS[:2]
        return windows_of(chunk)

    with pytest.raises(error), compute_ahead(chunks, compute) as ahead:  # noqa: PT012 - the body raises
        next(ahead)
        assert begun.wait(PATIENCE)
        if waits:
            threading.Timer(0.05, go_on.set).start()
        raise error
    assert done.is_set() == waits
    go_on.set()
