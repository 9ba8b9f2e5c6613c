"""Scope of a validation: the windows to compare with trades and with 1m, and the windows to leave out.

Comparing the windows is in `validation_comparison`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all, subtract
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames import checks
from k2_ohlcv.frames.checks import Finding
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.history_bounds import HistoryBounds
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges
from k2_ohlcv.lake.metadata.row_estimates import RowsPerDay
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.watermark import Watermark

#: After a run over single markets, longer windows are not compared with 1m.
_LONGEST_COMPARED = timedelta(hours=1)


@dataclass(frozen=True)
class CandleTableState:
    """A loaded candle table, with the windows that are not compared with trades.

    Attributes:
        table: the candle table.
        timeframe: the timeframe of the table.
        bounds: `frozen_before` and `expired_before` of the table.
        pending: dirty windows within the bounds. The next refresh computes them.
        too_late: dirty windows before the bounds. No refresh computes them.
    """

    table: Table
    timeframe: Timeframe
    bounds: HistoryBounds
    pending: tuple[Interval, ...]
    too_late: tuple[Interval, ...]

    @classmethod
    def load(cls, table: Table, trades: Table, timeframe: Timeframe) -> "CandleTableState":
        """Find the state of a candle table.

        Load the candle table before the trades table. Its watermark then names no later trades snapshot.
        """
        bounds = HistoryBounds.from_tables(table, trades, timeframe)
        dirty = timeframe.align(_find_dirty(table, trades, timeframe))
        pending = bounds.clip(dirty)
        return cls(table, timeframe, bounds, tuple(pending), tuple(subtract(dirty, pending)))

    def outside_bounds(self, intervals: Sequence[Interval]) -> list[Interval]:
        """Return the windows of the intervals that are before a history bound."""
        return self.timeframe.align(subtract(intervals, self.bounds.clip(intervals)))


def _find_dirty(table: Table, trades: Table, timeframe: Timeframe) -> Sequence[Interval]:
    """Find the intervals that are dirty since the watermark."""
    pending = PendingChanges.find(table, trades)
    if pending.current is None:
        return []
    if pending.watermark is None:
        # The first rebuild is not complete. Partitions without candles are dirty, all others are compared.
        files = live_files(table, table.metadata.current_snapshot_id)
        computed = timeframe.grain.partitions(f.span for f in files)
        return subtract(timeframe.grain.partitions(trades_spans(trades, pending.current)), computed)
    if pending.reason is not None:
        return trades_spans(trades, pending.current)
    # Partitions that another writer changed are compared all the same: validation must find wrong candles.
    return [*pending.diff.bounds, *subtract(pending.watermark.open_intervals, pending.watermark.touched)]


@dataclass(frozen=True)
class ComparisonScope:
    """The windows of one comparison, and the numbers of windows left out.

    Attributes:
        examined: the windows to compare.
        pending: the number of windows that are dirty since the watermark.
        outside_bounds: the number of windows before `frozen_before` or `expired_before`.
    """

    examined: Sequence[Interval]
    pending: int
    outside_bounds: int

    @classmethod
    def select(
        cls,
        timeframe: Timeframe,
        windows: Sequence[Interval],
        pending: Sequence[Interval],
        outside_bounds: Sequence[Interval],
    ) -> "ComparisonScope":
        """Select the windows to compare. A window outside of the bounds does not also count as pending."""

        def count(intervals: Sequence[Interval]) -> int:
            return sum((i.end - i.start) // timeframe.length for i in intervals)

        outside = intersect_all(windows, outside_bounds)
        waiting = subtract(intersect_all(windows, pending), outside)
        return cls(subtract(windows, [*outside, *waiting]), count(waiting), count(outside))

    def uncompared_finding(self, check: str, timeframe: Timeframe) -> Finding:
        """Build the finding that counts the windows left out."""
        return checks.uncompared_finding(check, timeframe, pending=self.pending, behind=self.outside_bounds)


def find_not_comparable(
    candles: CandleTableState, minutes: CandleTableState, selection: WindowSelection | None
) -> Finding | None:
    """Return a finding if a table is not compared with 1m, else None.

    The comparison requires candles in the 1m table, and a watermark in both tables. After a run that
    reconciled windows of single markets, windows longer than an hour are left to the audit: a comparison
    would read the 1m candles of all markets in these windows.
    """
    if candles.timeframe == minutes.timeframe or minutes.table.current_snapshot() is None:
        return Finding("timeframes_agree", candles.timeframe.name, 0)
    if Watermark.from_table(candles.table) is None or Watermark.from_table(minutes.table) is None:
        return Finding(
            "timeframes_agree", candles.timeframe.name, 0, note="one of the tables is not complete yet"
        )
    if selection and not selection.pairs.is_empty() and candles.timeframe.length > _LONGEST_COMPARED:
        note = "windows of single markets were not compared; the audit compares whole days"
        return Finding("timeframes_agree", candles.timeframe.name, 0, note=note)
    return None


def split_into_chunks(
    intervals: Sequence[Interval], candles: CandleTableState, minutes: CandleTableState, max_rows: int
) -> Iterator[list[Interval]]:
    """Split intervals so that the stored rows of each chunk, and their 1m rows, fit in memory."""
    tables = {state.timeframe: state.table for state in (candles, minutes)}
    rows = [RowsPerDay(live_files(t, t.metadata.current_snapshot_id)) for t in tables.values()]

    def estimate(interval: Interval) -> float:
        return sum(table.estimate(interval) for table in rows)

    chunk: list[Interval] = []
    size = 0.0
    for partition in candles.timeframe.grain.partitions(intervals):
        of_partition = intersect_all(intervals, [partition])
        is_large = sum(map(estimate, of_partition)) > max_rows
        pieces = [[p] for i in of_partition for p in candles.timeframe.cut(i)] if is_large else [of_partition]
        for piece in pieces:
            added = sum(map(estimate, piece))
            if chunk and size + added > max_rows:
                yield coalesce(chunk)
                chunk, size = [], 0.0
            chunk, size = [*chunk, *piece], size + added
    if chunk:
        yield coalesce(chunk)
