"""Polars: the streaming engine on the data files, candles to Parquet.

Open and close use `sort_by(…).first()`, the fastest way in the streaming engine.
"""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from bench.job import Job
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES

_PRICE = pl.Decimal(18, 8)


def _as_windows(job: Job) -> pl.LazyFrame:
    """Each trade as its own window, so that one expression rolls up trades and windows."""
    at, price, quantity = pl.col("timestamp"), pl.col("price"), pl.col("quantity")
    inside = (at >= job.interval.start) & (at < job.interval.end)
    return (
        pl.scan_parquet(list(job.files))
        .filter(inside)
        .select(
            "symbol",
            "exchange",
            window_start=at,
            **{f"{which}_at": at for which in ("open", "close")},
            **{f"{which}_id": pl.col("trade_id") for which in ("open", "close")},
            **{f"{which}_price": price for which in ("open", "close", "high", "low")},
            volume=quantity,
            trade_count=pl.lit(1, pl.Int64),
            # A product of decimals loses digits. A product of their integers, in 1e-8, does not.
            notional=price.to_physical() * quantity.to_physical(),
        )
    )


def _rollup(windows: pl.LazyFrame, timeframe: Timeframe, *, ordered: bool = False) -> pl.LazyFrame:
    def order(which: str) -> list[pl.Expr]:
        trade_id = pl.col(f"{which}_id")
        return [pl.col(f"{which}_at"), trade_id.str.len_chars(), trade_id]

    # The order of the open and close trades is needed to roll the windows up again.
    parts = ("at", "id", "price") if ordered else ("price",)
    return windows.group_by(
        "symbol", "exchange", pl.col("window_start").dt.truncate(f"{timeframe.micros}us")
    ).agg(
        *(pl.col(f"open_{part}").sort_by(*order("open")).first() for part in parts),
        *(pl.col(f"close_{part}").sort_by(*order("close")).last() for part in parts),
        pl.col("high_price").max(),
        pl.col("low_price").min(),
        pl.col("volume").sum().cast(pl.Decimal(29, 8)),
        pl.col("trade_count").sum(),
        pl.col("notional").sum(),
    )


def _candles_from_windows(windows: pl.LazyFrame, timeframe: Timeframe) -> pl.LazyFrame:
    start, volume = pl.col("window_start"), pl.col("volume").to_physical()
    quotient, rest = pl.col("notional") // volume, pl.col("notional") % volume
    half_even = (2 * rest > volume) | ((2 * rest == volume) & (quotient % 2 == 1))
    units = (quotient + half_even.cast(pl.Int128)).cast(pl.Decimal(38, 8))
    return windows.with_columns(
        vwap=(units / pl.lit(10**8).cast(pl.Decimal(38, 8))).cast(_PRICE),
        window_end=start + timeframe.length,
        window_date=start.dt.date(),
        **{
            clock: pl.lit(datetime.now(UTC), pl.Datetime("us", "UTC"))
            for clock in ("created_at", "updated_at")
        },
    ).select(*CANDLE_TYPES)


class PolarsEngine:
    """Polars, with its defaults for threads."""

    def prepare(self, job: Job) -> None:
        """Remove the files of an earlier run."""
        for timeframe in job.timeframes:
            job.path(timeframe).unlink(missing_ok=True)
        Path(job.out).mkdir(parents=True, exist_ok=True)

    def run(self, job: Job) -> None:
        """Compute the tables. Several tables share one scan, as in K2 OHLCV."""
        windows = _as_windows(job)
        if len(job.tables) > 1:
            windows = _rollup(windows, job.timeframes[0], ordered=True).collect(engine="streaming").lazy()
        for timeframe in job.timeframes:
            candles = _candles_from_windows(_rollup(windows, timeframe), timeframe).sort(
                "exchange", "symbol", "window_start"
            )
            candles.collect(engine="streaming").write_parquet(job.path(timeframe), compression="zstd")


def create_engine() -> PolarsEngine:  # each engine's module has this function
    """Create the Polars engine."""
    return PolarsEngine()
