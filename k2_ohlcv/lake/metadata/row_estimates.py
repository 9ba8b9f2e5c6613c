"""Estimates the rows of intervals from the files of a snapshot, to bound memory. Reads no data file."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.metadata.files import LiveFile


class RowsPerDay:
    """Estimates the number of rows of intervals, from the rows and time spans of files.

    Args:
        files: live files. Delete files do not count.
    """

    def __init__(self, files: Sequence[LiveFile]) -> None:
        # All files without bounds have one span, of thousands of days.
        rows_of_spans: dict[Interval, int] = defaultdict(int)
        for file in files:
            if not file.is_delete:
                rows_of_spans[file.span] += file.file.record_count
        self._rows: dict[datetime, float] = defaultdict(float)
        for span, rows in rows_of_spans.items():
            for day in Grain.DAY.partitions([span]):
                self._rows[day.start] += rows * _share(span, day)

    def per_partition(self, grain: Grain) -> list[float]:
        """Estimate the rows of each partition, from the first one with rows to the last, without a gap."""
        if not self._rows:
            return []
        rows: dict[Interval, float] = defaultdict(float)
        for day, count in self._rows.items():
            rows[grain.partition(day)] += count
        covered = Interval(min(rows).start, max(rows).end)
        return [rows[partition] for partition in grain.partitions([covered])]

    def estimate(self, interval: Interval) -> float:
        """Estimate the rows of an interval, as if the rows of a day were spread evenly."""
        days = Grain.DAY.partitions([interval])
        return sum(self._rows.get(day.start, 0.0) * _share(day, interval) for day in days)


def _share(span: Interval, part: Interval) -> float:
    """The share of a span that lies in another interval."""
    overlap = span.intersect(part)
    return (overlap.end - overlap.start) / (span.end - span.start) if overlap else 0.0
