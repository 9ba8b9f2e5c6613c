"""Which windows validation compares with the trades and with 1m, and which it leaves out.

What is found in them is in `validate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import Table

from k2_ohlcv.domain import checks
from k2_ohlcv.domain.checks import Finding
from k2_ohlcv.domain.frame import CANDLE_TYPES
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.window import DAY, Interval, coalesce, intersect_all, subtract
from k2_ohlcv.lake.changes import trades_spans
from k2_ohlcv.lake.delete_files import plan
from k2_ohlcv.lake.files import live_files, partition_of
from k2_ohlcv.lake.lines import Lines
from k2_ohlcv.lake.open_work import OpenWork
from k2_ohlcv.lake.watermark import Watermark

#: So many days are in memory at once: 31 of 1m with 50 markets are two million rows.
_CHUNK = 31 * DAY


@dataclass(frozen=True)
class CandleTableState:
    """A candle table as it was loaded, and where it is not compared with the trades.

    Attributes:
        table: the table.
        timeframe: what it has candles of.
        lines: where history stands still.
        pending: windows ahead of the lines that are dirty since the watermark.
        too_late: windows behind the lines that changed since, and stay as they are.
    """

    table: Table
    timeframe: Timeframe
    lines: Lines
    pending: tuple[Interval, ...]
    too_late: tuple[Interval, ...]

    @classmethod
    def of(cls, table: Table, trades: Table, timeframe: Timeframe) -> "CandleTableState":
        """The state of a table. Load it before the trades: its watermark then names no later snapshot."""
        lines = Lines.of(table, trades, timeframe)
        dirty = timeframe.align(_dirty(table, trades, timeframe))
        pending = lines.ahead(dirty)
        return cls(table, timeframe, lines, tuple(pending), tuple(subtract(dirty, pending)))

    def behind(self, intervals: Sequence[Interval]) -> list[Interval]:
        """The windows of some intervals that lie behind a line."""
        return self.timeframe.align(subtract(intervals, self.lines.ahead(intervals)))

    def read(self, intervals: Sequence[Interval]) -> pl.DataFrame:
        """The rows of the intervals' partitions, with the key of the partition that each is stored in."""
        wanted = set(self.timeframe.grain.partitions(intervals))
        scan = ArrowScan(self.table.metadata, self.table.io, self.table.schema(), AlwaysTrue())
        frames = [pl.DataFrame(schema={**CANDLE_TYPES, "partition": pl.String})]
        grain, current = self.timeframe.grain, self.table.metadata.current_snapshot_id
        files = live_files(self.table, current)
        inside = [f for f in files if not f.is_delete and partition_of(f.file, grain) in wanted]
        for task in plan(self.table, self.timeframe, inside)[0]:
            rows = pl.DataFrame(scan.to_table([task])).cast(pl.Schema(CANDLE_TYPES))
            key = grain.key(partition_of(task.file, grain))
            frames.append(rows.with_columns(pl.lit(key).alias("partition")))
        return pl.concat(frames)


def _dirty(table: Table, trades: Table, timeframe: Timeframe) -> Sequence[Interval]:
    work = OpenWork.of(table, trades)
    if work.current is None:
        return []
    if work.mark is None:
        # Never complete: partitions without any candle are still to be made, the others were made.
        files = live_files(table, table.metadata.current_snapshot_id)
        made = timeframe.grain.partitions(f.span for f in files)
        return subtract(timeframe.grain.partitions(trades_spans(trades, work.current)), made)
    if work.reason is not None:
        return trades_spans(trades, work.current)
    # What another writer did to the candles is no reason to look away.
    return [*work.changes.bounds, *subtract(work.mark.open, work.mark.touched)]


@dataclass(frozen=True)
class ComparisonScope:
    """Which of some windows are compared, and how many are not: they are pending, or behind a line.

    Attributes:
        examined: the windows that are compared.
        pending: how many are dirty since the watermark.
        behind: how many lie behind a line of retention.
    """

    examined: Sequence[Interval]
    pending: int
    behind: int

    @classmethod
    def of(
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

    def left_out(self, check: str, timeframe: Timeframe) -> Finding:
        """The finding that counts the windows which are not compared."""
        return checks.left_out(check, timeframe, pending=self.pending, behind=self.behind)


def incomparable_with_minutes(candles: CandleTableState, minutes: CandleTableState) -> Finding | None:
    """The finding that a table is not compared with 1m; None where it is.

    Both tables must have been made, and both must have a watermark.
    """
    if candles.timeframe == minutes.timeframe or minutes.table.current_snapshot() is None:
        return Finding("timeframes_agree", candles.timeframe.name, 0)
    if Watermark.of(candles.table) is None or Watermark.of(minutes.table) is None:
        return Finding("timeframes_agree", candles.timeframe.name, 0, note="not both tables are complete yet")
    return None


def cut_into_chunks(whole: Sequence[Interval], timeframe: Timeframe) -> list[list[Interval]]:
    """The partitions of some intervals, in parts whose rows are in memory at once."""
    lots: list[list[Interval]] = []
    for partition in timeframe.grain.partitions(whole):
        if lots and partition.end - lots[-1][0].start <= _CHUNK:
            lots[-1].append(partition)
        else:
            lots.append([partition])
    return [coalesce(lot) for lot in lots]
