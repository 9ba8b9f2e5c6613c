"""Finds and reads the data files of a candle table, without a comparison with computed candles.

Building the change of a commit is in `candles`.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.intervals import Interval, IntervalSet, is_covered, to_micros
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES
from k2_ohlcv.lake.delete_files import plan_scan_tasks
from k2_ohlcv.lake.metadata.files import LiveFile, file_partition, file_time_span, live_files


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
    files = partition_files(table, timeframe, timeframe.grain.partitions(intervals))
    tasks = [
        task
        for task in plan_scan_tasks(table, timeframe, files)[0]
        if may_have_rows(table, timeframe, task, chosen)
    ]
    rows = read_rows(table, timeframe, tasks, range(len(tasks)))
    keys = [timeframe.grain.key(file_partition(task.file, timeframe.grain)) for task in tasks]
    partition = pl.lit(pl.Series(keys, dtype=pl.String)).gather("task").alias("partition")
    paths = [task.file.file_path for task in tasks]
    return rows.select(*CANDLE_TYPES, partition, "misplaced", "task"), paths


def partition_files(table: Table, timeframe: Timeframe, partitions: Sequence[Interval]) -> list[LiveFile]:
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


def may_have_rows(table: Table, timeframe: Timeframe, task: FileScanTask, intervals: IntervalSet) -> bool:
    """Whether a file may have rows of the intervals, or has misplaced rows."""
    span = file_time_span(table, task.file)
    has_misplaced = not is_covered([file_partition(task.file, timeframe.grain)], [span])
    return has_misplaced or intervals.has_overlap(span)


def read_rows(
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
