"""Reads the stored candles of some windows, and builds the change that makes them equal to computed candles.

The engine computes the candles, `frames.candles.diff_candles` compares them with the stored ones, and
`commit` makes the snapshot.
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

#: Maximum data files of a partition. Beyond that, a commit rewrites the partition as one sorted file.
MAX_FILES = 16


@dataclass(frozen=True)
class StoredCandles:
    """The candles of some partitions in one version of the table.

    Attributes:
        table: that version.
        timeframe: the timeframe of the table.
        tasks: every data file of the partitions.
        read: indexes into `tasks` of the files whose rows are in `rows`.
        rows: all rows of the read files. `row` numbers the rows and `task` is the index of the file. A
            `misplaced` row lies in a file of another partition, where no reader finds the row.
        rewritten: indexes of the files to rewrite in any case. Unreadable deletes of another engine apply to
            these files, and `rows` includes the rows that those deletes removed.
    """

    table: Table
    timeframe: Timeframe
    tasks: tuple[FileScanTask, ...]
    read: frozenset[int]
    rows: pl.DataFrame
    rewritten: frozenset[int] = frozenset()

    @classmethod
    def load(cls, table: Table, timeframe: Timeframe, intervals: Sequence[Interval]) -> "StoredCandles":
        """Read the files that may have windows of the intervals, and list all files of their partitions."""
        partitions = timeframe.grain.partitions(intervals)
        files = _partition_files(table, timeframe, partitions)
        tasks, rewritten = plan_scan_tasks(table, timeframe, files, intervals)
        read = [
            index
            for index, task in enumerate(tasks)
            if index in rewritten or _may_have_rows(table, timeframe, task, intervals)
        ]
        rows = _read_rows(table, timeframe, tasks, read)
        return cls(table, timeframe, tuple(tasks), frozenset(read), rows, frozenset(rewritten))

    def change(
        self, computed: pl.DataFrame, refused: pl.DataFrame, intervals: Sequence[Interval], now: datetime
    ) -> "CandleFileChange":
        """Build the change after which these intervals have exactly the computed candles.

        The stored candle of a window that breaks an invariant is not changed.

        Args:
            computed: the candles of the intervals, without audit columns.
            refused: windows without a computable candle, in the columns of `REFUSED_TYPES`.
            intervals: whole windows.
            now: the time in the audit columns of new and changed candles.

        Raises:
            InvariantError: a candle to write does not match the candle schema.
        """
        broken = find_broken_windows(_add_audit_columns(computed, now), self.timeframe)
        refused = pl.concat([refused, broken]).sort("window_start", *KEY_COLUMNS[:2])
        computed = computed.join(broken, on=KEY_COLUMNS, how="anti")
        misplaced = self.rows.filter("misplaced")
        rows = self.rows.filter(~pl.col("misplaced") & is_in_intervals("window_start", intervals))
        rows = rows.join(refused, on=KEY_COLUMNS, how="anti")
        diff = diff_candles(rows.drop("misplaced"), computed, now)
        check_invariants(diff.written, self.timeframe)
        removed = misplaced.select("window_start", pl.lit("removed").alias("outcome"))
        return self._rewrite_files(
            CandleDiff(
                pl.concat([diff.dropped_keys, misplaced["row"]]),
                diff.written,
                pl.concat([diff.outcomes, removed]),
            ),
            refused,
        )

    def _rewrite_files(self, diff: CandleDiff, refused: pl.DataFrame) -> "CandleFileChange":
        """The files to remove for a diff, and the rows to write instead."""
        is_dropped = pl.col("row").is_in(diff.dropped_keys.implode())
        touched = set(self.rows.filter(is_dropped)["task"].unique()) | self.rewritten
        touched |= self._files_to_compact(touched, diff.written)
        unread = sorted(touched - self.read)
        rows = pl.concat(
            [
                self.rows,
                _read_rows(self.table, self.timeframe, self.tasks, unread, first_row=self.rows.height),
            ]
        )
        retained = rows.filter(pl.col("task").is_in(list(touched)) & ~is_dropped)
        candles = pl.concat([retained.select(*CANDLE_TYPES), diff.written])
        return CandleFileChange(
            removed=tuple(self.tasks[index] for index in sorted(touched)),
            rows=_to_arrow(self.table, candles),
            outcomes=diff.outcomes,
            refused=refused,
        )

    def _files_to_compact(self, touched: set[int], written: pl.DataFrame) -> set[int]:
        """Indexes of all files of those partitions that would have too many files after the commit."""
        grain = self.timeframe.grain
        partitions = [file_partition(task.file, grain) for task in self.tasks]
        days = written["window_start"].dt.truncate("1d").unique()
        changed = {grain.partition(day) for day in days} | {partitions[index] for index in touched}
        untouched = Counter(partition for index, partition in enumerate(partitions) if index not in touched)
        to_compact = {partition for partition in changed if untouched[partition] + 1 > MAX_FILES}
        return {index for index, partition in enumerate(partitions) if partition in to_compact}


@dataclass(frozen=True)
class CandleFileChange:
    """The files and rows of one candle commit.

    Attributes:
        removed: files to remove.
        rows: rows to add.
        outcomes: one row per window with its outcome.
        refused: windows whose stored candle is not changed, in the columns of `REFUSED_TYPES`.
    """

    removed: tuple[FileScanTask, ...]
    rows: pa.Table
    outcomes: pl.DataFrame
    refused: pl.DataFrame

    @property
    def is_empty(self) -> bool:
        """Whether the stored candles already equal the computed ones."""
        return not self.removed and not self.rows.num_rows


def _add_audit_columns(computed: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Computed candles in the columns of a candle table."""
    clock = pl.lit(now, pl.Datetime("us", "UTC"))
    return computed.with_columns(clock.alias("created_at"), clock.alias("updated_at")).select(*CANDLE_TYPES)


def _partition_files(table: Table, timeframe: Timeframe, partitions: Sequence[Interval]) -> list[LiveFile]:
    """Every data file of the partitions, and every other file whose rows may lie in them."""
    chosen = set(partitions)
    files = live_files(table, table.metadata.current_snapshot_id)
    return [
        f
        for f in files
        if not f.is_delete
        and (file_partition(f.file, timeframe.grain) in chosen or any(map(f.span.intersect, partitions)))
    ]


def _may_have_rows(
    table: Table, timeframe: Timeframe, task: FileScanTask, intervals: Sequence[Interval]
) -> bool:
    """Whether a file may have rows of the intervals, or has misplaced rows."""
    span = file_time_span(table, task.file)
    has_misplaced = not is_covered([file_partition(task.file, timeframe.grain)], [span])
    return has_misplaced or any(span.intersect(interval) for interval in intervals)


def _read_rows(
    table: Table,
    timeframe: Timeframe,
    tasks: Sequence[FileScanTask],
    indexes: Sequence[int],
    *,
    first_row: int = 0,
) -> pl.DataFrame:
    """Read all rows of the files with these indexes, with `row`, `task` and `misplaced`."""
    types = {**CANDLE_TYPES, "row": pl.UInt32(), "task": pl.UInt32(), "misplaced": pl.Boolean()}
    if not indexes:
        return pl.DataFrame(schema=types)
    chosen = [tasks[index] for index in indexes]
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    if any(task.delete_files for task in chosen):
        parts = [scan.to_table([task]) for task in chosen]
        counts = [part.num_rows for part in parts]
    else:  # one scan is faster, and returns the rows in the order of the tasks
        parts = [scan.to_table(chosen)]
        counts = [task.file.record_count for task in chosen]
    rows = pl.concat([pl.DataFrame(part).cast(pl.Schema(CANDLE_TYPES)) for part in parts])
    assert rows.height == sum(counts), f"read {rows.height} rows of {sum(counts)}"
    partitions = [file_partition(task.file, timeframe.grain) for task in chosen]
    starts = pl.Series(np.repeat([to_micros(partition.start) for partition in partitions], counts))
    ends = pl.Series(np.repeat([to_micros(partition.end) for partition in partitions], counts))
    window_starts = rows["window_start"].dt.epoch("us")
    return (
        rows.with_columns(
            pl.Series("task", np.repeat(np.array(indexes, np.uint32), counts)),
            ((window_starts < starts) | (window_starts >= ends)).alias("misplaced"),
        )
        .with_row_index("row", first_row)
        .select(*types)
    )


def _to_arrow(table: Table, candles: pl.DataFrame) -> pa.Table:
    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)
    return candles.sort(*KEY_COLUMNS).to_arrow().cast(schema)
