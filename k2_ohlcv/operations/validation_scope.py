"""Which windows validation compares with the trades and with 1m, and which it leaves out.

What is found in them is in `validate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import DAY, Interval, coalesce, intersect_all, subtract
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames import checks
from k2_ohlcv.frames.candles import CANDLE_TYPES
from k2_ohlcv.frames.checks import Finding
from k2_ohlcv.lake.delete_files import plan_scan_tasks
from k2_ohlcv.lake.history_bounds import HistoryBounds
from k2_ohlcv.lake.metadata.files import file_partition, live_files
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.watermark import Watermark

#: So many days are in memory at once: 31 of 1m with 50 markets are two million rows.
_CHUNK_LENGTH = 31 * DAY


@dataclass(frozen=True)
class CandleTableState:
    """A candle table as it was loaded, and where it is not compared with the trades.

    Attributes:
        table: the table.
        timeframe: what it has candles of.
        bounds: where history stands still.
        pending: windows ahead of the lines that are dirty since the watermark.
        too_late: windows behind the lines that changed since, and stay as they are.
    """

    table: Table
    timeframe: Timeframe
    bounds: HistoryBounds
    pending: tuple[Interval, ...]
    too_late: tuple[Interval, ...]

    @classmethod
    def load(cls, table: Table, trades: Table, timeframe: Timeframe) -> "CandleTableState":
        """The state of a table. Load it before the trades: its watermark then names no later snapshot."""
        lines = HistoryBounds.from_tables(table, trades, timeframe)
        dirty = timeframe.align(_dirty(table, trades, timeframe))
        pending = lines.clip(dirty)
        return cls(table, timeframe, lines, tuple(pending), tuple(subtract(dirty, pending)))

    def outside_bounds(self, intervals: Sequence[Interval]) -> list[Interval]:
        """The windows of some intervals that lie behind a line."""
        return self.timeframe.align(subtract(intervals, self.bounds.clip(intervals)))

    def read(self, intervals: Sequence[Interval]) -> pl.DataFrame:
        """The rows of the intervals' partitions, with the key of the partition that each is stored in."""
        wanted = set(self.timeframe.grain.partitions(intervals))
        scan = ArrowScan(self.table.metadata, self.table.io, self.table.schema(), AlwaysTrue())
        frames = [pl.DataFrame(schema={**CANDLE_TYPES, "partition": pl.String})]
        grain, current = self.timeframe.grain, self.table.metadata.current_snapshot_id
        files = live_files(self.table, current)
        inside = [f for f in files if not f.is_delete and file_partition(f.file, grain) in wanted]
        for task in plan_scan_tasks(self.table, self.timeframe, inside)[0]:
            rows = pl.DataFrame(scan.to_table([task])).cast(pl.Schema(CANDLE_TYPES))
            key = grain.key(file_partition(task.file, grain))
            frames.append(rows.with_columns(pl.lit(key).alias("partition")))
        return pl.concat(frames)


def _dirty(table: Table, trades: Table, timeframe: Timeframe) -> Sequence[Interval]:
    work = PendingChanges.find(table, trades)
    if work.current is None:
        return []
    if work.watermark is None:
        # Never complete: partitions without any candle are still to be made, the others were made.
        files = live_files(table, table.metadata.current_snapshot_id)
        made = timeframe.grain.partitions(f.span for f in files)
        return subtract(timeframe.grain.partitions(trades_spans(trades, work.current)), made)
    if work.reason is not None:
        return trades_spans(trades, work.current)
    # What another writer did to the candles is no reason to look away.
    return [*work.diff.bounds, *subtract(work.watermark.open_intervals, work.watermark.touched)]


@dataclass(frozen=True)
class ComparisonScope:
    """Which of some windows are compared, and how many are not: they are pending, or behind a line.

    Attributes:
        examined: the windows that are compared.
        pending: how many are dirty since the watermark.
        outside_bounds: how many lie behind a line of retention.
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
        behind: Sequence[Interval],
    ) -> "ComparisonScope":
        """The scope over some windows. A window behind a line is not counted as pending too."""

        def count(left_out: Sequence[Interval]) -> int:
            return sum((i.end - i.start) // timeframe.length for i in left_out)

        gone = intersect_all(windows, behind)
        waiting = subtract(intersect_all(windows, pending), gone)
        return cls(subtract(windows, [*gone, *waiting]), count(waiting), count(gone))

    def uncompared_finding(self, check: str, timeframe: Timeframe) -> Finding:
        """The finding that counts the windows which are not compared."""
        return checks.uncompared_finding(check, timeframe, pending=self.pending, behind=self.outside_bounds)


def find_not_comparable(candles: CandleTableState, minutes: CandleTableState) -> Finding | None:
    """The finding that a table is not compared with 1m; None where it is.

    Both tables must have been made, and both must have a watermark.
    """
    if candles.timeframe == minutes.timeframe or minutes.table.current_snapshot() is None:
        return Finding("timeframes_agree", candles.timeframe.name, 0)
    if Watermark.from_table(candles.table) is None or Watermark.from_table(minutes.table) is None:
        return Finding("timeframes_agree", candles.timeframe.name, 0, note="not both tables are complete yet")
    return None


def split_into_chunks(whole: Sequence[Interval], timeframe: Timeframe) -> list[list[Interval]]:
    """The partitions of some intervals, in parts whose rows are in memory at once."""
    lots: list[list[Interval]] = []
    for partition in timeframe.grain.partitions(whole):
        if lots and partition.end - lots[-1][0].start <= _CHUNK_LENGTH:
            lots[-1].append(partition)
        else:
            lots.append([partition])
    return [coalesce(lot) for lot in lots]
