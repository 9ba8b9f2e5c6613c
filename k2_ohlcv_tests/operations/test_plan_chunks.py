"""How a plan is split into commits: by trades and windows, at hours where a partition is too large."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.manifest import DataFileContent

from k2_ohlcv.domain.intervals import DAY, Interval, coalesce
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.row_estimates import RowsPerDay
from k2_ohlcv.operations.plan import Plan
from k2_ohlcv.operations.plan_chunks import Chunks

MIDNIGHT = datetime(2024, 2, 28, tzinfo=UTC)
MINUTE = find_timeframe("1m")


def day(number: int) -> Interval:
    return Interval(MIDNIGHT + number * DAY, MIDNIGHT + (number + 1) * DAY)


def file(rows: int, span: Interval) -> LiveFile:
    entry: Any = SimpleNamespace(record_count=rows, content=DataFileContent.DATA, file_path=str(span))
    return LiveFile(entry, span)


def plan(timeframe: Timeframe, intervals: list[Interval]) -> Plan:
    return Plan(timeframe, 1, 2, tuple(intervals), WindowSelection(tuple(intervals)), (), None)


def split(
    timeframe: Timeframe,
    intervals: list[Interval],
    files: list[LiveFile],
    max_windows: int,
    ratio: float = 1.0,
) -> list[list[Interval]]:
    """The chunks, if each trade makes `ratio` windows, in the sample and in every chunk."""
    chunks = Chunks(plan(timeframe, intervals), files, max_windows=max_windows, sample=lambda _: ratio)
    found, rows = [], RowsPerDay(files)
    for chunk in chunks:
        found.append(chunk)
        trades = int(sum(map(rows.estimate, chunk)))
        chunks.add_result(trades, int(trades * ratio))
    return found


def length_of(intervals: list[Interval]) -> timedelta:
    return sum((i.end - i.start for i in intervals), timedelta())


starts = st.integers(0, 5 * 1440).map(lambda minutes: MIDNIGHT + timedelta(minutes=minutes))
spans = st.builds(lambda at, hours: Interval(at, at + timedelta(hours=hours)), starts, st.integers(1, 40))


@given(
    st.sampled_from(TIMEFRAMES),
    st.lists(spans, min_size=1, max_size=4),
    st.lists(st.integers(0, 5_000), min_size=5, max_size=8),
    st.integers(1, 4_000),
    st.floats(0.001, 1.0),
)
def test_chunks_are_the_plan_in_order(
    timeframe: Timeframe, chosen: list[Interval], rows: list[int], max_windows: int, ratio: float
) -> None:
    """Together they are the plan's intervals, in whole windows. Only small parts exceed the limit."""
    intervals = timeframe.align(chosen)
    files = [file(count, day(number)) for number, count in enumerate(rows)]
    chunks = split(timeframe, intervals, files, max_windows=max_windows, ratio=ratio)
    pieces = [piece for chunk in chunks for piece in chunk]
    assert pieces == sorted(pieces)
    assert coalesce(pieces) == intervals
    assert all(timeframe.align([piece]) == [piece] for piece in pieces)
    assert length_of(pieces) == length_of(intervals)
    estimate = RowsPerDay(files).estimate
    smallest = max(timeframe.length, timedelta(hours=1))
    for chunk in chunks:
        assert length_of(chunk) <= smallest or sum(map(estimate, chunk)) * ratio <= max_windows * 1.01 + 1


def test_many_small_partitions_are_one_chunk() -> None:
    """The number of partitions is no limit."""
    days = [day(number) for number in range(400)]
    chunks = split(MINUTE, coalesce(days), [file(10, span) for span in days], max_windows=10_000)
    assert chunks == [coalesce(days)]


def test_a_large_partition_is_cut_at_hours() -> None:
    """A day of 2,400 windows in commits of 250: two hours each."""
    chunks = split(MINUTE, [day(0)], [file(2_400, day(0))], max_windows=250)
    assert [len(chunks), {c.end - c.start for (c,) in chunks}] == [12, {timedelta(hours=2)}]


def test_a_partition_that_must_be_whole_is_not_cut() -> None:
    """A part could not drop the deletes of another engine."""
    files = [file(2_400, day(number)) for number in range(2)]
    chunks = Chunks(
        plan(MINUTE, [Interval(day(0).start, day(1).end)]),
        files,
        max_windows=1_200,
        sample=lambda _: 1.0,
        indivisible=[day(1)],
    )
    assert [coalesce(chunk)[0] for chunk in chunks][-1] == day(1)


def test_a_sample_and_then_the_results_size_the_chunks() -> None:
    """Ten trades a window in the sample, then only two."""
    days = [day(number) for number in range(6)]
    chunks = Chunks(
        plan(MINUTE, coalesce(days)),
        [file(1_000, span) for span in days],
        max_windows=300,
        sample=lambda _: 0.1,
    )
    found = []
    for chunk in chunks:
        found.append(chunk)
        chunks.add_result(1_000, 500)
    assert found[0] == coalesce(days[:3])
    assert {length_of(chunk) for chunk in found[1:-1]} == {timedelta(hours=14)}
