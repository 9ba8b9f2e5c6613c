"""Totals of trades per window, for checking candles: counts, sums and extremes.

Another and simpler expression than the rollup that made the candles: a mistake there is not made again here.
"""

from collections.abc import Iterable, Sequence

import polars as pl
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import KEY
from k2_ohlcv.domain.checks import TOTALS
from k2_ohlcv.domain.frame import inside
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.trading_times import possible
from k2_ohlcv.domain.types import PRICE, VOLUME
from k2_ohlcv.domain.window import Interval, bound, coalesce, subtract
from k2_ohlcv.engine.rollup import MOST_INTERVALS, trades_between
from k2_ohlcv.engine.session import Engine

#: Windows that are kept for the other timeframes, some 60 bytes each; beyond, only those asked for last.
_MOST_WINDOWS = 2_000_000

_EMPTY = pl.DataFrame(
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
assert tuple(_EMPTY.columns) == (*KEY, *TOTALS)


class TotalsCache:
    """The totals of the last scan, for the timeframes that are checked together.

    Args:
        timeframes: trades are scanned for the shortest of them. The totals of the others are added up from
            those: sums and extremes do not depend on the way there.
    """

    def __init__(self, timeframes: Iterable[Timeframe]) -> None:
        self.timeframes = tuple(timeframes)
        self._key: tuple[int, str] | None = None
        self._spans: list[Interval] = []
        self._windows = _EMPTY

    def get(self, snapshot: int, timeframe: Timeframe) -> tuple[list[Interval], pl.DataFrame]:
        """The intervals that are known at a snapshot, and their totals."""
        return (self._spans, self._windows) if self._key == (snapshot, timeframe.name) else ([], _EMPTY)

    def put(self, snapshot: int, timeframe: Timeframe, spans: list[Interval], windows: pl.DataFrame) -> None:
        """Keep these in place of all others."""
        self._key, self._spans, self._windows = (snapshot, timeframe.name), spans, windows


def totals(
    engine: Engine,
    trades: Table,
    snapshot: int,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    *,
    cache: TotalsCache | None = None,
) -> pl.DataFrame:
    """`KEY` and `TOTALS` of every window of the intervals that has trades, at a snapshot.

    Args:
        engine: the session to compute in.
        trades: the trades table; its current metadata must know the snapshot.
        snapshot: the trades snapshot id.
        timeframe: which windows.
        intervals: aligned to the timeframe's windows.
        cache: what earlier scans found. What this scan finds is added.
    """
    intervals = possible(intervals)
    if not intervals:
        return _EMPTY
    cache = cache or TotalsCache([timeframe])
    finest = min(timeframe, *cache.timeframes, key=lambda t: t.length)
    spans, windows = cache.get(snapshot, finest)
    if missing := subtract(intervals, spans):
        found = _scan(engine, trades, snapshot, finest, missing)
        spans, windows = coalesce([*spans, *missing]), pl.concat([windows, found])
        if windows.height > _MOST_WINDOWS:
            spans, windows = intervals, windows.filter(inside("window_start", intervals))
        cache.put(snapshot, finest, spans, windows)
    return _added_up(windows, timeframe, intervals)


def _scan(
    engine: Engine, trades: Table, snapshot: int, timeframe: Timeframe, intervals: Sequence[Interval]
) -> pl.DataFrame:
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    rows = trades_between(engine, trades, snapshot, bound(intervals, MOST_INTERVALS))
    micros = F.unix_micros("timestamp")
    start = F.timestamp_micros(micros - F.pmod(micros, F.lit(timeframe.micros)))
    found = rows.groupBy("exchange", "symbol", start.alias("window_start")).agg(
        F.count(F.lit(1)).alias("trade_count"),
        F.sum("quantity").alias("volume"),
        F.max("price").alias("high_price"),
        F.min("price").alias("low_price"),
    )
    scanned = pl.DataFrame(found.select(*_EMPTY.columns).toArrow()).cast(_EMPTY.schema)
    # What lies between bounded intervals was read too. Kept, it would count twice once it is asked for.
    return scanned.filter(inside("window_start", intervals))


def _added_up(windows: pl.DataFrame, timeframe: Timeframe, intervals: Sequence[Interval]) -> pl.DataFrame:
    micros = pl.col("window_start").dt.epoch("us")
    start = pl.from_epoch(micros - micros % timeframe.micros, "us").dt.replace_time_zone("UTC")
    return (
        windows.filter(inside("window_start", intervals))
        .with_columns(start.alias("window_start"))
        .group_by(KEY)
        .agg(
            pl.col("trade_count").sum(),
            pl.col("volume").sum(),
            pl.col("high_price").max(),
            pl.col("low_price").min(),
        )
        .cast(_EMPTY.schema)
    )
