"""External merge sort of trades by timestamp. Memory use does not depend on file size.

Parsed rows are collected into runs. Each run is sorted by time and written in small chunks. The first and
last time of each chunk stay in memory, so a time range is read from few chunks. Runs are Arrow files with
lz4. They exist for minutes and are read once, so write speed matters more than size.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.sources.columns import Int64s
from k2_ohlcv.sources.rows import TIMESTAMP_TYPE, TRADES_SCHEMA

#: The most rows of a run, about 60 MB in memory.
MAX_RUN_ROWS = 1_000_000
_CHUNK_ROWS = 65_536
_HOUR = 3_600_000_000
_DAY = 24 * _HOUR

#: The schema of a run. Market and file are numbers.
RUN_SCHEMA = pa.schema(
    [
        ("market", pa.int32()),
        ("file", pa.int32()),
        *(TRADES_SCHEMA.field(name) for name in ("trade_id", "timestamp", "price", "quantity", "line")),
    ]
)


@dataclass(frozen=True)
class TimeRange:
    """A half-open time range in microseconds, with its number of rows."""

    start: int
    end: int
    rows: int


@dataclass(frozen=True)
class _SortedRun:
    path: Path
    bounds: tuple[tuple[int, int], ...]


class SortBuffer:
    """Trades of files, added in file order and read by time range."""

    def __init__(self, folder: Path, run_rows: int = MAX_RUN_ROWS) -> None:
        self._folder = folder
        self._run_rows = run_rows
        self._runs: list[_SortedRun] = []
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._hours: Counter[int] = Counter()

    def add(self, rows: pa.Table) -> None:
        """Add rows, in the order of files and lines."""
        if not rows.num_rows:
            return
        hours, counts = np.unique(to_micros_array(rows) // _HOUR, return_counts=True)
        self._hours.update(dict(zip(hours.tolist(), counts.tolist(), strict=True)))
        self._pending.append(rows)
        self._pending_rows += rows.num_rows
        if self._pending_rows >= self._run_rows:
            self._flush()

    def _flush(self) -> None:
        rows = sort_by_time(pa.concat_tables(self._pending))
        path = self._folder / f"run-{len(self._runs):06}.arrow"
        bounds = []
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, RUN_SCHEMA, options=options) as writer:
            for batch in rows.combine_chunks().to_batches(_CHUNK_ROWS):
                writer.write_batch(batch)
                times = batch.column("timestamp").cast(pa.int64())
                bounds.append((times[0].as_py(), times[-1].as_py()))
        self._runs.append(_SortedRun(path, tuple(bounds)))
        self._pending, self._pending_rows = [], 0

    def read(self, start: int, end: int) -> pa.Table:
        """Read the rows of a half-open range of microseconds, ordered by time, file and line."""
        parts = [RUN_SCHEMA.empty_table()]
        for run in self._runs:
            chunks = [i for i, (first, last) in enumerate(run.bounds) if first < end and last >= start]
            if chunks:
                with pa.OSFile(str(run.path)) as source, pa.ipc.open_file(source) as reader:
                    parts += [
                        _rows_between(pa.Table.from_batches([reader.get_batch(i)]), start, end)
                        for i in chunks
                    ]
        parts += [_rows_between(rows, start, end) for rows in self._pending]
        return sort_by_time(pa.concat_tables(parts))

    def split_ranges(self, most: int) -> Iterator[TimeRange]:
        """Split the time into contiguous ranges of at most about `most` rows.

        A range is whole days if they fit, else hours, else shorter. Rows of one microsecond stay together, so
        one microsecond may have more rows.
        """
        days: Counter[int] = Counter()
        for hour, count in self._hours.items():
            days[hour * _HOUR // _DAY] += count
        ranges = []
        for day in sorted(days):
            if days[day] <= most:
                ranges.append(TimeRange(day * _DAY, (day + 1) * _DAY, days[day]))
            else:
                ranges += list(self._hours_of(day, most))
        yield from _join_ranges(ranges, most)

    def _hours_of(self, day: int, most: int) -> Iterator[TimeRange]:
        for hour in range(day * 24, day * 24 + 24):
            span = TimeRange(hour * _HOUR, (hour + 1) * _HOUR, self._hours.get(hour, 0))
            if span.rows <= most:
                yield span
                continue
            times = to_micros_array(self.read(span.start, span.end).select(["timestamp"]))
            cuts = [span.start, *_cut_points(times, most), span.end]
            for start, end in pairwise(cuts):
                yield TimeRange(start, end, int(np.searchsorted(times, end) - np.searchsorted(times, start)))


def _cut_points(times: Int64s, most: int) -> Iterator[int]:
    """Find the times that cut sorted times into parts of at most `most`. Equal times stay together."""
    at = 0
    while len(times) - at > most:
        first = int(np.searchsorted(times, times[at + most]))
        at = first if first > at else int(np.searchsorted(times, times[at], side="right"))
        if at < len(times):
            yield int(times[at])


def _join_ranges(ranges: list[TimeRange], most: int) -> Iterator[TimeRange]:
    pending: TimeRange | None = None
    for span in ranges:
        if not span.rows:
            continue
        # Join whole days only with whole days. Parts of a day join only within the day.
        same_kind = pending and (
            pending.start // _DAY == span.start // _DAY or not (pending.end % _DAY or span.end % _DAY)
        )
        if pending and same_kind and pending.rows + span.rows <= most:
            pending = TimeRange(pending.start, span.end, pending.rows + span.rows)
            continue
        if pending:
            yield pending
        pending = span
    if pending:
        yield pending


def to_micros_array(rows: pa.Table) -> Int64s:
    """Convert the times of rows to microseconds since the epoch."""
    values: Int64s = rows["timestamp"].cast(pa.int64()).to_numpy()
    return values


def sort_by_time(rows: pa.Table) -> pa.Table:
    """Sort rows by time. The sort is stable."""
    times = to_micros_array(rows)
    if not len(times) or (np.diff(times) >= 0).all():
        return rows
    return rows.take(pa.array(np.argsort(times, kind="stable")))


def _rows_between(rows: pa.Table, start: int, end: int) -> pa.Table:
    times = to_micros_array(rows)
    if times.min() >= start and times.max() < end:
        return rows
    low, high = (
        pa.scalar(start, pa.int64()).cast(TIMESTAMP_TYPE),
        pa.scalar(end, pa.int64()).cast(TIMESTAMP_TYPE),
    )
    inside = pc.and_(pc.greater_equal(rows["timestamp"], low), pc.less(rows["timestamp"], high))
    return rows.filter(inside)
