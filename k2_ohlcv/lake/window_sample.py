"""Estimates the windows per trade of a trades table from its first rows, before anything is computed."""

import polars as pl
import pyarrow.parquet as pq
from pyiceberg.table import Table

from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, LiveFile

#: The number of rows to read.
_SAMPLE_ROWS = 100_000


def sample_windows_per_trade(trades: Table, file: LiveFile, timeframe: Timeframe) -> float:
    """Estimate the windows per trade from the first rows of a file of the project's trades.

    The result is 1, the most that is possible, for an external table and for a file that cannot be read.
    """
    if isinstance(trades, ExternalTrades):
        return 1.0
    columns = ["exchange", "symbol", TRADE_TIME_COLUMN]
    try:
        with trades.io.new_input(file.path).open() as stream:
            rows = pl.DataFrame(next(pq.ParquetFile(stream).iter_batches(_SAMPLE_ROWS, columns=columns)))
    except (OSError, KeyError, ValueError, StopIteration):
        return 1.0
    start = pl.col(TRADE_TIME_COLUMN).dt.epoch("us") // timeframe.micros
    return rows.select("exchange", "symbol", start).n_unique() / rows.height
