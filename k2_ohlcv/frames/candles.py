"""Candles as frames: candles from computed windows, and their comparison with stored candles.

All functions are pure, on Arrow and Polars data. Reading and writing tables is in `lake.candles`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain.candle import AUDIT_COLUMNS, KEY_COLUMNS, NOTIONAL_LIMIT, VALUE_COLUMNS
from k2_ohlcv.domain.intervals import Interval, coalesce, to_micros
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.domain.types import PRICE, VOLUME
from k2_ohlcv.frames.vwap import compute_vwap

#: The maximum number of rows in an error message or a failed check.
MAX_SAMPLE_ROWS = 20

_PRICE = pl.Decimal(*PRICE)

#: The columns of a candle table, in order, with their types.
CANDLE_TYPES: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "exchange": pl.String(),
    "window_start": pl.Datetime("us", "UTC"),
    "window_end": pl.Datetime("us", "UTC"),
    "window_date": pl.Date(),
    "open_price": _PRICE,
    "high_price": _PRICE,
    "low_price": _PRICE,
    "close_price": _PRICE,
    "volume": pl.Decimal(*VOLUME),
    "trade_count": pl.Int64(),
    "vwap": _PRICE,
    "created_at": pl.Datetime("us", "UTC"),
    "updated_at": pl.Datetime("us", "UTC"),
}

#: The columns of a frame of refused windows: the key, and the name of the failed check.
REFUSED_TYPES: dict[str, pl.DataType] = {
    "exchange": pl.String(),
    "symbol": pl.String(),
    "window_start": pl.Datetime("us", "UTC"),
    "check": pl.String(),
}


def candles_from_windows(windows: pa.Table, timeframe: Timeframe) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Turn the engine's windows into candles, and separate the windows that must be refused.

    Args:
        windows: rows of `frames.windows.WINDOW_SCHEMA`.
        timeframe: the timeframe of the windows.

    Returns:
        The candles without `created_at` and `updated_at`, and the refused windows (`REFUSED_TYPES`).
    """
    # The engine sends small batches. One piece a column takes half the time.
    windows, refused = _split_computable(windows.combine_chunks())
    vwap = compute_vwap(windows["notional"], windows["volume"])
    frame = pl.DataFrame(windows.append_column("vwap", vwap).drop_columns("notional"))
    start = pl.col("window_start")
    candles = frame.with_columns(
        (start + timeframe.length).alias("window_end"), start.dt.date().alias("window_date")
    ).select(*KEY_COLUMNS, *VALUE_COLUMNS)
    return candles, refused


def _split_computable(windows: pa.Table) -> tuple[pa.Table, pl.DataFrame]:
    """Separate windows with an exact vwap from windows to refuse.

    A window is refused if a value does not fit its type, or if the volume is not positive. A window is also
    refused if high x volume reaches 10^22: engines may overflow its notional silently.
    """
    positive = pc.and_(pc.equal(windows["misfits"], 0), pc.greater(windows["volume"], 0))
    high = windows["high_price"].cast(pa.decimal256(*PRICE))
    volume = windows["volume"].cast(pa.decimal256(*VOLUME))
    product = pa.decimal256(PRICE.precision + VOLUME.precision + 1, PRICE.scale + VOLUME.scale)
    small = pc.less(pc.multiply(high, volume), pa.scalar(NOTIONAL_LIMIT, product))
    positive, small = (pc.fill_null(mask, False) for mask in (positive, small))
    fits = pc.and_(positive, small)
    if pc.all(fits, min_count=0).as_py():
        return windows, pl.DataFrame(schema=REFUSED_TYPES)
    refused_rows = windows.filter(pc.invert(fits))
    checks = pc.if_else(positive.filter(pc.invert(fits)), "vwap_bounds", "positive_metrics")
    refused = pl.DataFrame(refused_rows.select(list(KEY_COLUMNS)).append_column("check", checks))
    return windows.filter(fits), refused.cast(pl.Schema(REFUSED_TYPES))


def format_rows(frame: pl.DataFrame) -> str:
    """Format the first rows of a frame as a text table for people."""
    with pl.Config(
        tbl_rows=MAX_SAMPLE_ROWS, tbl_cols=-1, tbl_width_chars=200, tbl_formatting="ASCII_MARKDOWN"
    ):
        return str(frame.head(MAX_SAMPLE_ROWS))


@dataclass(frozen=True)
class CandleDiff:
    """The rows to delete and to write, so that stored candles equal computed candles.

    Attributes:
        dropped_keys: the rows to delete, as values of the column `row` of the stored frame.
        written: the rows to write, in the columns of a candle table.
        outcomes: one row per candle, with `window_start` and `outcome`. The outcome is added, changed,
            removed or unchanged.
    """

    dropped_keys: pl.Series
    written: pl.DataFrame
    outcomes: pl.DataFrame


def diff_candles(stored: pl.DataFrame, computed: pl.DataFrame, now: datetime) -> CandleDiff:
    """Compare stored candles with the computed candles of the same windows.

    Candles are equal if each key has one row, and all columns except `created_at` and `updated_at` are equal.
    A changed candle keeps its `created_at`. An unchanged candle also keeps its `updated_at`.

    Args:
        stored: candle rows with a unique column `row`. In a damaged table, keys may be duplicate or off the
            window grid.
        computed: the candles from `candles_from_windows`.
        now: the time to write into `created_at` and `updated_at`.
    """
    by_key = stored.with_columns(pl.len().over(*KEY_COLUMNS).alias("copies")).sort("created_at")
    first = by_key.unique(KEY_COLUMNS, keep="first", maintain_order=True)
    matched = computed.join(
        first.select(*KEY_COLUMNS, *VALUE_COLUMNS, "created_at", "row", "copies"),
        on=KEY_COLUMNS,
        how="left",
        suffix="_stored",
    )
    matched = matched.with_columns(_candle_outcome().alias("outcome"))
    unchanged = matched.filter(pl.col("outcome") == "unchanged")["row"]
    written = matched.filter(pl.col("outcome") != "unchanged").with_columns(
        pl.col("created_at").fill_null(now), pl.lit(now, pl.Datetime("us", "UTC")).alias("updated_at")
    )
    replaced = matched.filter(pl.col("outcome") == "changed").select("row")
    dropped = stored.filter(~pl.col("row").is_in(unchanged.implode()))
    removed = dropped.join(replaced, on="row", how="anti").select(
        "window_start", pl.lit("removed").alias("outcome")
    )
    return CandleDiff(
        dropped["row"],
        written.select(*CANDLE_TYPES).cast(pl.Schema(CANDLE_TYPES)),
        pl.concat([matched.select("window_start", "outcome"), removed]),
    )


def _candle_outcome() -> pl.Expr:
    """The outcome of a computed candle that is joined with its stored row."""
    equal = reduce(
        lambda left, right: left & right,
        (pl.col(c).eq_missing(pl.col(f"{c}_stored")) for c in VALUE_COLUMNS),
        pl.col("copies").eq_missing(1),
    )
    outcome_of_stored = pl.when(equal).then(pl.lit("unchanged")).otherwise(pl.lit("changed"))
    return pl.when(pl.col("row").is_null()).then(pl.lit("added")).otherwise(outcome_of_stored)


def window_start_of(micros: pl.Expr, timeframe: Timeframe) -> pl.Expr:
    """The start of the window of a time in microseconds since the epoch.

    Checks floor times by expressions of their own, so that a mistake here is not repeated in them.
    """
    return pl.from_epoch(micros - micros % timeframe.micros, "us").dt.replace_time_zone("UTC")


def partition_start_of(column: str, timeframe: Timeframe) -> pl.Expr:
    """The start of the partition of a window start."""
    return pl.col(column).dt.truncate("1d" if timeframe.grain is Grain.DAY else "1mo")


def is_in_intervals(column: str, intervals: Sequence[Interval]) -> pl.Expr:
    """Return an expression: whether the time in a column lies in one of the intervals."""
    return _overlaps(pl.col(column).dt.epoch("us"), pl.col(column).dt.epoch("us") + 1, intervals)


def overlaps_intervals(start: str, end: str, intervals: Sequence[Interval]) -> pl.Expr:
    """Return an expression: whether the span from one column to another overlaps one of the intervals."""
    return _overlaps(pl.col(start).dt.epoch("us"), pl.col(end).dt.epoch("us"), intervals)


def _overlaps(start: pl.Expr, end: pl.Expr, intervals: Sequence[Interval]) -> pl.Expr:
    """Compare microseconds: Polars would create a frame for each literal of a time type.

    The cost does not grow with the number of intervals.
    """
    disjoint = coalesce(intervals)
    if not disjoint:
        return pl.lit(False)
    starts, ends = (
        pl.Series([to_micros(getattr(interval, side)) for interval in disjoint], dtype=pl.Int64)
        for side in ("start", "end")
    )
    if len(disjoint) == 1:
        is_inside: pl.Expr = (end > starts[0]) & (start < ends[0])
        return is_inside
    # The first interval that ends after the start. The number of intervals stands for no such interval.
    index = pl.lit(ends).search_sorted(start, side="right").cast(pl.Int64)
    last = len(disjoint) - 1
    return (index <= last) & (end > pl.lit(starts).gather(index.clip(upper_bound=last)))


assert set(CANDLE_TYPES) == {*KEY_COLUMNS, *VALUE_COLUMNS, *AUDIT_COLUMNS}
