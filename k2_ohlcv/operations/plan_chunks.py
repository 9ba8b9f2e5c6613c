"""Splits a plan into chunks, one commit each, so that memory stays bounded. The plan itself is in `plan`."""

from collections.abc import Iterator

from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all
from k2_ohlcv.lake.metadata.files import LiveFile, live_files
from k2_ohlcv.operations.plan import Plan

#: The maximum number of partitions in one commit.
MAX_CHUNK_PARTITIONS = 31
#: The maximum number of trades to read for one commit. A single partition may have more.
MAX_CHUNK_TRADES = 12_500_000


def split_into_chunks(plan: Plan, trades: Table) -> Iterator[list[Interval]]:
    """Split the intervals of a plan at partition boundaries, so that each chunk fits in memory."""
    files = live_files(trades, plan.trades_to)
    chunk: list[Interval] = []
    trades_count, partitions_count = 0, 0
    for partition in plan.partitions:
        intervals = intersect_all(plan.intervals, [partition])
        # A file over several partitions counts in proportion to its overlap in time.
        rows = int(sum(_share_of_file(f, i) for f in files for i in intervals))
        if chunk and (partitions_count >= MAX_CHUNK_PARTITIONS or trades_count + rows > MAX_CHUNK_TRADES):
            yield coalesce(chunk)
            chunk, trades_count, partitions_count = [], 0, 0
        chunk += intervals
        trades_count, partitions_count = trades_count + rows, partitions_count + 1
    if chunk:
        yield coalesce(chunk)


def _share_of_file(file: LiveFile, interval: Interval) -> float:
    """Estimate the number of rows of a file in an interval, from their overlap in time."""
    overlap = file.span.intersect(interval)
    length = file.span.end - file.span.start
    return file.file.record_count * ((overlap.end - overlap.start) / length) if overlap else 0.0
