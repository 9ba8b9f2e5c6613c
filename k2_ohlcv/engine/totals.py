"""Computes totals of trades per window, to check candles: counts, sums and extremes.

The expression is simple and independent of the rollup. A mistake in the rollup is therefore not repeated.
"""

from collections.abc import Iterable, Sequence

import polars as pl
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.intervals import Interval, coalesce, merge_to_at_most, subtract
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.trading_times import clip_to_trading_times
from k2_ohlcv.domain.types import PRICE, VOLUME
from k2_ohlcv.engine.rollup import MAX_INTERVALS, read_trades_between
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.frames.candles import is_in_intervals
from k2_ohlcv.frames.checks import TOTAL_COLUMNS

#: The most cached windows, about 60 bytes each. Beyond that, only the latest intervals stay cached.
_MAX_CACHED_WINDOWS = 2_000_000

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


class TotalsCache:
    """The totals of the latest scans, for the timeframes that are checked together.

    Args:
        timeframes: trades are scanned for the shortest timeframe. Totals of longer timeframes are sums and
            extremes of these totals.
    """

    def __init__(self, timeframes: Iterable[Timeframe]) -> None:
        self.timeframes = tuple(timeframes)
        self._key: tuple[int, str] | None = None
        self._spans: list[Interval] = []
        self._windows = _NO_TOTALS

    def get(self, snapshot: int, timeframe: Timeframe) -> tuple[list[Interval], pl.DataFrame]:
        """The cached intervals of a snapshot, and their totals."""
        return (self._spans, self._windows) if self._key == (snapshot, timeframe.name) else ([], _NO_TOTALS)

    def put(self, snapshot: int, timeframe: Timeframe, spans: list[Interval], windows: pl.DataFrame) -> None:
        """Replace the contents of the cache."""
        self._key, self._spans, self._windows = (snapshot, timeframe.name), spans, windows


def compute_totals(
    engine: Engine,
    trades: Table,
    snapshot: int,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    *,
    cache: TotalsCache | None = None,
) -> pl.DataFrame:
    """Compute `KEY_COLUMNS` and `TOTAL_COLUMNS` of every window with trades, at a snapshot.

    Args:
        engine: the session to compute in.
        trades: the trades table. Its current metadata must have the snapshot.
        snapshot: the trades snapshot id.
        timeframe: the length of the windows.
        intervals: aligned to the timeframe's windows.
        cache: the totals of earlier scans. This scan adds its totals.
    """
    intervals = clip_to_trading_times(intervals)
    if not intervals:
        return _NO_TOTALS
    cache = cache or TotalsCache([timeframe])
    finest = min(timeframe, *cache.timeframes, key=lambda t: t.length)
    spans, windows = cache.get(snapshot, finest)
    if missing := subtract(intervals, spans):
        scanned = _scan_trades(engine, trades, snapshot, finest, missing)
        spans, windows = coalesce([*spans, *missing]), pl.concat([windows, scanned])
        if windows.height > _MAX_CACHED_WINDOWS:
            spans, windows = intervals, windows.filter(is_in_intervals("window_start", intervals))
        cache.put(snapshot, finest, spans, windows)
    return _sum_windows(windows, timeframe, intervals)


def _scan_trades(
    engine: Engine, trades: Table, snapshot: int, timeframe: Timeframe, intervals: Sequence[Interval]
) -> pl.DataFrame:
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    rows = read_trades_between(engine, trades, snapshot, merge_to_at_most(intervals, MAX_INTERVALS))
    micros = F.unix_micros("timestamp")
    start = F.timestamp_micros(micros - F.pmod(micros, F.lit(timeframe.micros)))
    totals = rows.groupBy("exchange", "symbol", start.alias("window_start")).agg(
        F.count(F.lit(1)).alias("trade_count"),
        F.sum("quantity").alias("volume"),
        F.max("price").alias("high_price"),
        F.min("price").alias("low_price"),
    )
    scanned = pl.DataFrame(totals.select(*_NO_TOTALS.columns).toArrow()).cast(_NO_TOTALS.schema)
    # The scan may read more than the intervals. These windows must not be cached, or they would count twice.
    return scanned.filter(is_in_intervals("window_start", intervals))


def _sum_windows(windows: pl.DataFrame, timeframe: Timeframe, intervals: Sequence[Interval]) -> pl.DataFrame:
    micros = pl.col("window_start").dt.epoch("us")
    start = pl.from_epoch(micros - micros % timeframe.micros, "us").dt.replace_time_zone("UTC")
    return (
        windows.filter(is_in_intervals("window_start", intervals))
        .with_columns(start.alias("window_start"))
        .group_by(KEY_COLUMNS)
        .agg(
            pl.col("trade_count").sum(),
            pl.col("volume").sum(),
            pl.col("high_price").max(),
            pl.col("low_price").min(),
        )
        .cast(_NO_TOTALS.schema)
    )
