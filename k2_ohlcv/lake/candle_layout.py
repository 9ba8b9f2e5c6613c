"""Arranges the candles of a commit in data files: by partition, and by time where a partition has many.

The rows of a file are sorted by key. Reading files is in `candle_files`, choosing files to rewrite in
`candles`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from k2_ohlcv.domain.intervals import Interval, to_micros
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, partition_start_of

#: Rows of a data file. A file with more than one and a half times as many is cut by time. A late trade then
#: rewrites little, and new trades leave the files of earlier hours alone.
FILE_ROWS = 32_768
#: Maximum small data files of a partition. Beyond that, a commit joins the small files.
MAX_FILES = 16
#: A file with fewer rows is small.
SMALL_FILE_ROWS = FILE_ROWS // 4


def file_of_time(spans: Sequence[tuple[Interval, int]]) -> pl.Expr:
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


def cut_files(groups: pl.DataFrame, timeframe: Timeframe) -> tuple[pl.DataFrame, tuple[int, ...]]:
    """Sort rows into files: by partition and group, and large groups by time.

    Returns:
        The rows in the order of the files, sorted by key in each file; and the number of rows of each file.
    """
    if groups.is_empty():
        return groups.select(*CANDLE_TYPES), ()
    partition = partition_start_of("window_start", timeframe)
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
