"""Computes totals of trades per window, to check candles: counts, sums and extremes.

The expression is simple and independent of the rollup. A mistake in the rollup is therefore not repeated.
"""

from collections.abc import Sequence

import polars as pl
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.intervals import Interval, merge_to_at_most
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.trading_times import clip_to_trading_times
from k2_ohlcv.domain.types import PRICE, VOLUME
from k2_ohlcv.engine.rollup import keep_pairs
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.trades_reader import MAX_INTERVALS, read_trades
from k2_ohlcv.engine.window_cache import RollupCache
from k2_ohlcv.frames.candles import is_in_intervals
from k2_ohlcv.frames.checks import TOTAL_COLUMNS

_NO_TOTALS = pl.DataFrame(
    schema={
        "exchange": pl.String,
        "symbol": pl.String,
        "window_start": pl.Datetime("us", "UTC"),
        "trade_count": pl.Int64,
        "volume": pl.Decimal(*VOLUME),
        "high_price": pl.Decimal(*PRICE),
        "low_price": pl.Decimal(*PRICE),
    }
)
assert tuple(_NO_TOTALS.columns) == (*KEY_COLUMNS, *TOTAL_COLUMNS)


class TotalsCache(RollupCache):
    """Totals of windows. Totals of longer timeframes are sums and extremes of those of shorter ones."""

    def _roll_up(self, rows: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        micros = pl.col("window_start").dt.epoch("us")
        start = pl.from_epoch(micros - micros % timeframe.micros, "us").dt.replace_time_zone("UTC")
        return (
            rows.with_columns(start.alias("window_start"))
            .group_by(KEY_COLUMNS)
            .agg(
                pl.col("trade_count").sum(),
                pl.col("volume").sum(),
                pl.col("high_price").max(),
                pl.col("low_price").min(),
            )
            .cast(_NO_TOTALS.schema)
        )


def compute_totals(
    engine: Engine,
    trades: Table,
    snapshot: int,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    *,
    pairs: pl.DataFrame | None = None,
    cache: TotalsCache | None = None,
) -> pl.DataFrame:
    """Compute `KEY_COLUMNS` and `TOTAL_COLUMNS` of every window with trades, at a snapshot.

    Args:
        engine: the session to compute in.
        trades: the trades table. Its current metadata must have the snapshot.
        snapshot: the trades snapshot id.
        timeframe: the length of the windows.
        intervals: aligned to the timeframe's windows.
        pairs: compute only these windows of these markets, in the columns `KEY_COLUMNS`; None computes all
            markets.
        cache: the totals of earlier scans. This scan adds its totals for longer timeframes.
    """
    intervals = clip_to_trading_times(intervals)
    if not intervals:
        return _NO_TOTALS
    if cache and pairs is None and (cached := cache.pop(snapshot, timeframe, intervals)) is not None:
        return cached
    totals = _scan_trades(engine, trades, snapshot, timeframe, intervals, pairs=pairs)
    if cache and pairs is None:
        cache.put_longer(snapshot, timeframe, intervals, totals)
    return totals


def _scan_trades(
    engine: Engine,
    trades: Table,
    snapshot: int,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    *,
    pairs: pl.DataFrame | None,
) -> pl.DataFrame:
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    rows = read_trades(engine, trades, snapshot, merge_to_at_most(intervals, MAX_INTERVALS)).frame
    if pairs is not None:
        rows = keep_pairs(engine, rows, timeframe, pairs)
    micros = F.unix_micros("timestamp")
    start = F.timestamp_micros(micros - F.pmod(micros, F.lit(timeframe.micros)))
    totals = rows.groupBy("exchange", "symbol", start.alias("window_start")).agg(
        F.count(F.lit(1)).alias("trade_count"),
        F.sum("quantity").alias("volume"),
        F.max("price").alias("high_price"),
        F.min("price").alias("low_price"),
    )
    scanned = pl.DataFrame(totals.select(*_NO_TOTALS.columns).toArrow()).cast(_NO_TOTALS.schema)
    # The scan may read more than the intervals.
    return scanned.filter(is_in_intervals("window_start", intervals))
