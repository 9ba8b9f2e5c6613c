"""Reads the stored candles of some windows, and builds the change that makes them equal to computed candles.

The engine computes the candles, `frames.candles.diff_candles` compares them with the stored ones, and
`commit` makes the snapshot.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.intervals import Interval, IntervalSet, is_covered, to_micros
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, CandleDiff, diff_candles
from k2_ohlcv.frames.invariants import check_invariants, find_broken_windows
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.delete_files import plan_scan_tasks
from k2_ohlcv.lake.metadata.files import LiveFile, file_partition, file_time_span, live_files

#: Rows of a data file. A file with more than one and a half times as many is cut by time. A late trade then
#: rewrites little, and new trades leave the files of earlier hours alone.
FILE_ROWS = 32_768
#: Maximum small data files of a partition. Beyond that, a commit joins the small files.
MAX_FILES = 16
#: A file with fewer rows is small.
SMALL_FILE_ROWS = FILE_ROWS // 4


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
        chosen = IntervalSet(intervals)
        read = [
            index
            for index, task in enumerate(tasks)
            if index in rewritten or _may_have_rows(table, timeframe, task, chosen)
        ]
        rows = _read_rows(table, timeframe, tasks, read)
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
                _read_rows(self.table, self.timeframe, self.tasks, unread, first_row=self.rows.height),
            ]
        )
        retained = rows.filter(pl.col("task").is_in(list(touched)) & ~is_dropped)
        groups = self._group_rows(retained, diff.written, touched - joined)
        candles, file_rows = _cut_files(groups, self.timeframe)
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
            if task.file.record_count < SMALL_FILE_ROWS
        }
        days = written["window_start"].dt.truncate("1d").unique()
        changed = {grain.partition(day) for day in days}
        changed |= {file_partition(self.tasks[index].file, grain) for index in touched}
        untouched = Counter(partition for index, partition in small.items() if index not in touched)
        to_join = {partition for partition in changed if untouched[partition] + 1 > MAX_FILES}
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
        return pl.concat([*parts, written.select(*CANDLE_TYPES, _file_of_time(spans).alias("group"))])


def _file_of_time(spans: Sequence[tuple[Interval, int]]) -> pl.Expr:
    """The number of the file whose time span has the window start, or -1. The spans are sorted."""
    if not spans:
        return pl.lit(-1, pl.Int64)
    starts, ends = ([to_micros(getattr(span, side)) for span, _ in spans] for side in ("start", "end"))
    micros = pl.col("window_start").dt.epoch("us")
    at = pl.lit(pl.Series(starts)).search_sorted(micros, side="right").cast(pl.Int64) - 1
    last = at.clip(lower_bound=0)
    is_inside = (at >= 0) & (micros < pl.lit(pl.Series(ends)).gather(last))
    return (
        pl.when(is_inside).then(pl.lit(pl.Series([index for _, index in spans])).gather(last)).otherwise(-1)
    )


def _cut_files(groups: pl.DataFrame, timeframe: Timeframe) -> tuple[pl.DataFrame, tuple[int, ...]]:
    """Sort rows into files: by partition and group, and large groups by time.

    Returns:
        The rows in the order of the files, sorted by key in each file; and the number of rows of each file.
    """
    if groups.is_empty():
        return groups.select(*CANDLE_TYPES), ()
    partition = pl.col("window_start").dt.truncate("1d" if timeframe.grain is Grain.DAY else "1mo")
    columns = groups.select(
        partition.dt.epoch("us"), "group", pl.col("window_start").dt.epoch("us").alias("start")
    )
    partitions, group, starts = (columns.to_series(i).to_numpy() for i in range(3))
    _, ordinals = np.unique(partitions, return_inverse=True)
    _, files, sizes = np.unique(ordinals * 2**32 + group, return_inverse=True, return_counts=True)
    pieces = np.zeros(len(files), np.int64)
    for file in np.flatnonzero(sizes > 1.5 * FILE_ROWS):
        rows = np.flatnonzero(files == file)
        pieces[rows] = _cut_by_time(starts[rows])
    keys = files * (pieces.max() + 1) + pieces
    # Numbers instead of names: sorting a million rows by text takes seconds.
    markets = groups.select("exchange", "symbol").unique().sort("exchange", "symbol").with_row_index("market")
    named = groups.select("exchange", "symbol").join(
        markets, on=["exchange", "symbol"], how="left", maintain_order="left"
    )
    order = np.lexsort((starts, named["market"].to_numpy(), keys))
    _, file_rows = np.unique(keys, return_counts=True)
    return groups.select(*CANDLE_TYPES)[order], tuple(file_rows.tolist())


def _cut_by_time(starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The number of the piece of each row. Rows of one window share a piece, so pieces do not overlap."""
    count = round(len(starts) / FILE_ROWS)
    ordered = np.sort(starts)
    edges = ordered[[len(starts) * i // count for i in range(1, count)]]
    return np.searchsorted(edges, starts, side="right")


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


def read_candles(
    table: Table, timeframe: Timeframe, intervals: Sequence[Interval]
) -> tuple[pl.DataFrame, list[str]]:
    """Read all rows of the data files that may have rows of some intervals, or have misplaced rows there.

    Args:
        table: the candle table.
        timeframe: the timeframe of the table.
        intervals: the intervals.

    Returns:
        The rows in the columns of `CANDLE_TYPES`, with `partition`, the key of the partition that stores the
        row, `misplaced`, and `task`, the index of the file; and the paths of the files.
    """
    chosen = IntervalSet(intervals)
    files = _partition_files(table, timeframe, timeframe.grain.partitions(intervals))
    tasks = [
        task
        for task in plan_scan_tasks(table, timeframe, files)[0]
        if _may_have_rows(table, timeframe, task, chosen)
    ]
    rows = _read_rows(table, timeframe, tasks, range(len(tasks)))
    keys = [timeframe.grain.key(file_partition(task.file, timeframe.grain)) for task in tasks]
    partition = pl.lit(pl.Series(keys, dtype=pl.String)).gather("task").alias("partition")
    paths = [task.file.file_path for task in tasks]
    return rows.select(*CANDLE_TYPES, partition, "misplaced", "task"), paths


def _add_audit_columns(computed: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Computed candles in the columns of a candle table."""
    clock = pl.lit(now, pl.Datetime("us", "UTC"))
    return computed.with_columns(clock.alias("created_at"), clock.alias("updated_at")).select(*CANDLE_TYPES)


def _partition_files(table: Table, timeframe: Timeframe, partitions: Sequence[Interval]) -> list[LiveFile]:
    """Every data file of the partitions, and every other file whose rows may lie in them."""
    chosen = set(partitions)
    chosen_times = IntervalSet(partitions)
    files = live_files(table, table.metadata.current_snapshot_id)
    return [
        f
        for f in files
        if not f.is_delete
        and (file_partition(f.file, timeframe.grain) in chosen or chosen_times.has_overlap(f.span))
    ]


def _may_have_rows(table: Table, timeframe: Timeframe, task: FileScanTask, intervals: IntervalSet) -> bool:
    """Whether a file may have rows of the intervals, or has misplaced rows."""
    span = file_time_span(table, task.file)
    has_misplaced = not is_covered([file_partition(task.file, timeframe.grain)], [span])
    return has_misplaced or intervals.has_overlap(span)


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
    return candles.to_arrow().cast(schema)
