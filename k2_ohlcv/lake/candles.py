"""A candle table's rows: what is stored for some windows, and the commit that makes them what they must be.

What they must be is computed by the engine; the decision between the two is `domain.frame.compare`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.intervals import Interval, is_covered, to_micros
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, CandleDiff, diff_candles, is_in_intervals
from k2_ohlcv.frames.invariants import check_invariants, find_broken_windows
from k2_ohlcv.lake.delete_files import plan_scan_tasks
from k2_ohlcv.lake.metadata.files import LiveFile, file_partition, file_time_span, live_files

#: Data files in one partition. A commit that would leave more rewrites the partition as one sorted file.
MAX_FILES = 16


@dataclass(frozen=True)
class StoredCandles:
    """The candles of some partitions, as one version of the table has them.

    Attributes:
        table: that version.
        tasks: every data file of the partitions.
        read: indexes into `tasks` of the files whose rows are in `rows`.
        rows: whole files' rows, with `row` (an index), `task` (which file), and `misplaced`: whether the row
            lies in the file of a partition that it does not belong to, where no reader looks for it.
        rewritten: indexes of the files that have to be written anew, whatever their rows: deletes of another
            engine bear on them, and `rows` has what these deleted.
    """

    table: Table
    timeframe: Timeframe
    tasks: tuple[FileScanTask, ...]
    read: frozenset[int]
    rows: pl.DataFrame
    rewritten: frozenset[int] = frozenset()

    @classmethod
    def load(cls, table: Table, timeframe: Timeframe, intervals: Sequence[Interval]) -> "StoredCandles":
        """Read the files that may hold windows of the intervals, and note the others of their partitions."""
        partitions = timeframe.grain.partitions(intervals)
        tasks, anew = plan_scan_tasks(table, timeframe, _files(table, timeframe, partitions), intervals)
        read = [
            i
            for i, task in enumerate(tasks)
            if i in anew or _may_hold_rows(table, timeframe, task, intervals)
        ]
        rows = _read_rows(table, timeframe, tasks, read)
        return cls(table, timeframe, tuple(tasks), frozenset(read), rows, frozenset(anew))

    def change(
        self, computed: pl.DataFrame, refused: pl.DataFrame, intervals: Sequence[Interval], now: datetime
    ) -> "CandleFileChange":
        """What has to be committed so that these intervals hold exactly the computed candles.

        Windows that break an invariant stay as they are stored.

        Args:
            computed: the candles of the intervals, without clocks.
            refused: windows of which no candle could be computed, in the columns of `REFUSED_TYPES`.
            intervals: whole windows.
            now: the clock for what is new or changed.

        Raises:
            GateError: what would be written is not of the candle schema.
        """
        broken = find_broken_windows(_add_audit_columns(computed, now), self.timeframe)
        refused = pl.concat([refused, broken]).sort("window_start", *KEY_COLUMNS[:2])
        computed = computed.join(broken, on=KEY_COLUMNS, how="anti")
        misplaced = self.rows.filter("misplaced")
        rows = self.rows.filter(~pl.col("misplaced") & is_in_intervals("window_start", intervals))
        rows = rows.join(refused, on=KEY_COLUMNS, how="anti")
        comparison = diff_candles(rows.drop("misplaced"), computed, now)
        check_invariants(comparison.written, self.timeframe)
        removed = misplaced.select("window_start", pl.lit("removed").alias("outcome"))
        return self._files(
            CandleDiff(
                pl.concat([comparison.dropped_keys, misplaced["row"]]),
                comparison.written,
                pl.concat([comparison.outcomes, removed]),
            ),
            refused,
        )

    def _files(self, comparison: CandleDiff, refused: pl.DataFrame) -> "CandleFileChange":
        gone = pl.col("row").is_in(comparison.dropped_keys.implode())
        touched = set(self.rows.filter(gone)["task"].unique()) | self.rewritten
        touched |= self._partitions_to_compact(touched, comparison.written)
        unread = sorted(touched - self.read)
        rows = pl.concat(
            [
                self.rows,
                _read_rows(self.table, self.timeframe, self.tasks, unread, first_row=self.rows.height),
            ]
        )
        survivors = rows.filter(pl.col("task").is_in(list(touched)) & ~gone)
        coming = pl.concat([survivors.select(*CANDLE_TYPES), comparison.written])
        return CandleFileChange(
            removed=tuple(self.tasks[i] for i in sorted(touched)),
            rows=_to_arrow(self.table, coming),
            outcomes=comparison.outcomes,
            refused=refused,
        )

    def _partitions_to_compact(self, touched: set[int], written: pl.DataFrame) -> set[int]:
        """The files of partitions that the commit would leave with too many files."""
        grain = self.timeframe.grain
        owners = [file_partition(task.file, grain) for task in self.tasks]
        days = written["window_start"].dt.truncate("1d").unique()
        coming = {grain.partition(day) for day in days}
        changing = coming | {owners[i] for i in touched}
        left = Counter(owner for i, owner in enumerate(owners) if i not in touched)
        crowded = {p for p in changing if left[p] + 1 > MAX_FILES}
        return {i for i, owner in enumerate(owners) if owner in crowded}


@dataclass(frozen=True)
class CandleFileChange:
    """The files and rows of one candle commit.

    Attributes:
        removed: files that go.
        rows: rows that come.
        outcomes: a row a window, with what became of it.
        refused: windows that stay as they are stored, in the columns of `REFUSED_TYPES`.
    """

    removed: tuple[FileScanTask, ...]
    rows: pa.Table
    outcomes: pl.DataFrame
    refused: pl.DataFrame

    @property
    def is_empty(self) -> bool:
        """Whether the stored candles are already right."""
        return not self.removed and not self.rows.num_rows


def _add_audit_columns(computed: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Computed candles in the columns of a candle table."""
    clock = pl.lit(now, pl.Datetime("us", "UTC"))
    return computed.with_columns(clock.alias("created_at"), clock.alias("updated_at")).select(*CANDLE_TYPES)


def _files(table: Table, timeframe: Timeframe, partitions: Sequence[Interval]) -> list[LiveFile]:
    """Every data file of the partitions, and every other whose rows may lie in them."""
    wanted = set(partitions)
    live = live_files(table, table.metadata.current_snapshot_id)
    return [
        f
        for f in live
        if not f.is_delete
        and (file_partition(f.file, timeframe.grain) in wanted or any(map(f.span.intersect, partitions)))
    ]


def _may_hold_rows(
    table: Table, timeframe: Timeframe, task: FileScanTask, intervals: Sequence[Interval]
) -> bool:
    span = file_time_span(table, task.file)
    strayed = not is_covered([file_partition(task.file, timeframe.grain)], [span])
    return strayed or any(span.intersect(interval) for interval in intervals)


def _read_rows(
    table: Table,
    timeframe: Timeframe,
    tasks: Sequence[FileScanTask],
    which: Sequence[int],
    *,
    first_row: int = 0,
) -> pl.DataFrame:
    types = {**CANDLE_TYPES, "row": pl.UInt32(), "task": pl.UInt32(), "misplaced": pl.Boolean()}
    if not which:
        return pl.DataFrame(schema=types)
    chosen = [tasks[i] for i in which]
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    if any(task.delete_files for task in chosen):
        parts = [scan.to_table([task]) for task in chosen]
        counts = [part.num_rows for part in parts]
    else:  # at once is faster, and the rows come in the order of the tasks
        parts = [scan.to_table(chosen)]
        counts = [task.file.record_count for task in chosen]
    rows = pl.concat([pl.DataFrame(part).cast(pl.Schema(CANDLE_TYPES)) for part in parts])
    assert rows.height == sum(counts), f"read {rows.height} rows of {sum(counts)}"
    owners = [file_partition(task.file, timeframe.grain) for task in chosen]
    starts = pl.Series(np.repeat([to_micros(owner.start) for owner in owners], counts))
    ends = pl.Series(np.repeat([to_micros(owner.end) for owner in owners], counts))
    at = rows["window_start"].dt.epoch("us")
    return (
        rows.with_columns(
            pl.Series("task", np.repeat(np.array(which, np.uint32), counts)),
            ((at < starts) | (at >= ends)).alias("misplaced"),
        )
        .with_row_index("row", first_row)
        .select(*types)
    )


def _to_arrow(table: Table, candles: pl.DataFrame) -> pa.Table:
    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)
    return candles.sort(*KEY_COLUMNS).to_arrow().cast(schema)
