"""Reads the stored candles of some windows, and builds the change that makes them equal to computed candles.

The engine computes the candles, `frames.candles.diff_candles` compares them with the stored ones, and
`commit` makes the snapshot.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.intervals import Interval, IntervalSet
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, CandleDiff, diff_candles
from k2_ohlcv.frames.invariants import check_invariants, find_broken_windows
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake import candle_layout
from k2_ohlcv.lake.candle_files import may_have_rows, partition_files, read_rows
from k2_ohlcv.lake.candle_layout import cut_files, file_of_time
from k2_ohlcv.lake.delete_files import plan_scan_tasks
from k2_ohlcv.lake.metadata.files import file_partition, file_time_span


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
        files = partition_files(table, timeframe, partitions)
        tasks, rewritten = plan_scan_tasks(table, timeframe, files, intervals)
        chosen = IntervalSet(intervals)
        read = [
            index
            for index, task in enumerate(tasks)
            if index in rewritten or may_have_rows(table, timeframe, task, chosen)
        ]
        rows = read_rows(table, timeframe, tasks, read)
        return cls(table, timeframe, tuple(tasks), frozenset(read), rows, frozenset(rewritten))

    def change(
        self, computed: pl.DataFrame, refused: pl.DataFrame, selection: WindowSelection, now: datetime
    ) -> "CandleFileChange":
        """Build the change after which the selected windows have exactly the computed candles.

        The stored candle of a window that breaks an invariant is not changed.

        Args:
            computed: the candles of the selected windows, without audit columns.
            refused: windows without a computable candle, in the columns of `REFUSED_TYPES`.
            selection: windows in the loaded intervals.
            now: the time in the audit columns of new and changed candles.

        Raises:
            InvariantError: a candle to write does not match the candle schema.
        """
        broken = find_broken_windows(_add_audit_columns(computed, now), self.timeframe)
        refused = pl.concat([refused, broken]).sort("window_start", *KEY_COLUMNS[:2])
        computed = computed.join(broken, on=KEY_COLUMNS, how="anti")
        misplaced = self.rows.filter("misplaced")
        rows = selection.filter(self.rows.filter(~pl.col("misplaced")))
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
        joined = self._files_to_join(touched, diff.written)
        touched |= joined
        unread = sorted(touched - self.read)
        rows = pl.concat(
            [
                self.rows,
                read_rows(self.table, self.timeframe, self.tasks, unread, first_row=self.rows.height),
            ]
        )
        retained = rows.filter(pl.col("task").is_in(list(touched)) & ~is_dropped)
        groups = self._group_rows(retained, diff.written, touched - joined)
        candles, file_rows = cut_files(groups, self.timeframe)
        return CandleFileChange(
            removed=tuple(self.tasks[index] for index in sorted(touched)),
            rows=_to_arrow(self.table, candles),
            file_rows=file_rows,
            outcomes=diff.outcomes,
            refused=refused,
        )

    def _files_to_join(self, touched: set[int], written: pl.DataFrame) -> set[int]:
        """Indexes of the small files of those partitions that would have too many after the commit."""
        grain = self.timeframe.grain
        small = {
            index: file_partition(task.file, grain)
            for index, task in enumerate(self.tasks)
            if task.file.record_count < candle_layout.SMALL_FILE_ROWS
        }
        days = written["window_start"].dt.truncate("1d").unique()
        changed = {grain.partition(day) for day in days}
        changed |= {file_partition(self.tasks[index].file, grain) for index in touched}
        untouched = Counter(partition for index, partition in small.items() if index not in touched)
        to_join = {partition for partition in changed if untouched[partition] + 1 > candle_layout.MAX_FILES}
        return {index for index, partition in small.items() if partition in to_join}

    def _group_rows(
        self, retained: pl.DataFrame, written: pl.DataFrame, replaced: Collection[int]
    ) -> pl.DataFrame:
        """The rows to write, with a column `group` of the rows that share a file.

        The rows of a replaced file stay together, with the new candles of its time span. Small files that are
        joined, and all other new candles, are one group. A change thus does not move the rows of other hours.
        """
        spans = sorted((file_time_span(self.table, self.tasks[index].file), index) for index in replaced)
        is_replaced = pl.col("task").is_in(list(replaced))
        group = pl.when(is_replaced).then(pl.col("task").cast(pl.Int64)).otherwise(-1).alias("group")
        parts = [retained.select(*CANDLE_TYPES, group)]
        return pl.concat([*parts, written.select(*CANDLE_TYPES, file_of_time(spans).alias("group"))])


@dataclass(frozen=True)
class CandleFileChange:
    """The files and rows of one candle commit.

    Attributes:
        removed: files to remove.
        rows: rows to add, in the order of the new files.
        file_rows: the number of rows of each new file.
        outcomes: one row per window with its outcome.
        refused: windows whose stored candle is not changed, in the columns of `REFUSED_TYPES`.
    """

    removed: tuple[FileScanTask, ...]
    rows: pa.Table
    file_rows: tuple[int, ...]
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


def _to_arrow(table: Table, candles: pl.DataFrame) -> pa.Table:
    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)
    return candles.to_arrow().cast(schema)
