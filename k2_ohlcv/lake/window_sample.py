"""Samples a trades file before anything is computed: its markets, and its windows per trade."""

from threading import Lock

import polars as pl
import pyarrow.parquet as pq
from cachetools import LRUCache, cached
from pyiceberg.table import Table

from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, LiveFile

#: The number of rows to read, and of files whose rows stay in memory.
_SAMPLE_ROWS, _SAMPLES = 100_000, 4


def sample_windows_per_trade(trades: Table, file: LiveFile, timeframe: Timeframe) -> float:
    """Estimate the windows per trade from the first rows of a file of the project's trades.

    The result is 1, the most that is possible, for an external table and for a file that cannot be read.
    """
    rows = _read_sample(trades, file)
    if rows is None:
        return 1.0
    start = pl.col(TRADE_TIME_COLUMN).dt.epoch("us") // timeframe.micros
    return rows.select("exchange", "symbol", start).n_unique() / rows.height


def sample_markets(trades: Table, file: LiveFile) -> int | None:
    """Count the markets in the first rows of a file; None where the file is not sampled."""
    rows = _read_sample(trades, file)
    return None if rows is None else rows.select("exchange", "symbol").n_unique()


@cached(LRUCache(_SAMPLES), key=lambda _, file: file.path, lock=Lock())
def _read_sample(trades: Table, file: LiveFile) -> pl.DataFrame | None:
    """The first rows of a file; None for an external table and for a file that cannot be read."""
    if isinstance(trades, ExternalTrades):
        return None
    columns = ["exchange", "symbol", TRADE_TIME_COLUMN]
    try:
        with trades.io.new_input(file.path).open() as stream:
            return pl.DataFrame(next(pq.ParquetFile(stream).iter_batches(_SAMPLE_ROWS, columns=columns)))
    except (OSError, KeyError, ValueError, StopIteration):
        return None
