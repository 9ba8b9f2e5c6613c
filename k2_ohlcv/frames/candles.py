"""Candles as frames: finishing what the engine computed, and comparing it with what is stored.

Pure functions on Arrow and Polars data. Nothing here reads or writes a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain.candle import AUDIT_COLUMNS, KEY_COLUMNS, NOTIONAL_LIMIT, SCALE, VALUE_COLUMNS
from k2_ohlcv.domain.intervals import Interval, to_micros
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.types import NOTIONAL, PRICE, VOLUME

#: Rows that an error or a failed check shows.
MAX_SAMPLE_ROWS = 20

_PRICE = pl.Decimal(*PRICE)

#: The columns of a candle table, in order, without their nullability.
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


#: Windows that are refused: their key, and the name of the check that they break.
REFUSED_TYPES: dict[str, pl.DataType] = {
    "exchange": pl.String(),
    "symbol": pl.String(),
    "window_start": pl.Datetime("us", "UTC"),
    "check": pl.String(),
}


def candles_from_windows(windows: pa.Table, timeframe: Timeframe) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Candles without clocks from the engine's windows, and the windows of which none can be made.

    vwap is notional / volume rounded half-even to 8 places, exactly: decimal256 keeps 46 places of the
    quotient, and a quotient of these types that is not a tie is further than that from one.

    Args:
        windows: rows of `engine.rollup.WINDOWS`.
        timeframe: what they are windows of.

    Returns:
        The candles, and the refused windows in the columns of `REFUSED_TYPES`.
    """
    windows, refused = _split_computable(windows)
    volume = windows["volume"].cast(pa.decimal256(*VOLUME))
    notional = windows["notional"].cast(pa.decimal256(*NOTIONAL))
    vwap = pc.round(pc.divide(notional, volume), ndigits=SCALE, round_mode="half_to_even")
    vwap = vwap.cast(pa.decimal256(76, SCALE)).cast(pa.decimal128(*PRICE))
    frame = pl.DataFrame(windows.append_column("vwap", vwap).drop_columns("notional"))
    start = pl.col("window_start")
    candles = frame.with_columns(
        (start + timeframe.length).alias("window_end"), start.dt.date().alias("window_date")
    ).select(*KEY_COLUMNS, *VALUE_COLUMNS)
    return candles, refused


def _split_computable(windows: pa.Table) -> tuple[pa.Table, pl.DataFrame]:
    """Part the windows whose vwap can be computed exactly from those to refuse.

    Refused are windows with trades that do not fit or a volume that is not positive. Refused is also a window
    whose high x volume reaches 10^22: engines may wrap its notional without notice.
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
    unfit = windows.filter(pc.invert(fits))
    checks = pc.if_else(positive.filter(pc.invert(fits)), "vwap_bounds", "positive_metrics")
    refused = pl.DataFrame(unfit.select(list(KEY_COLUMNS)).append_column("check", checks))
    return windows.filter(fits), refused.cast(pl.Schema(REFUSED_TYPES))


def format_rows(frame: pl.DataFrame) -> str:
    """The first rows of a frame as a plain table for people."""
    with pl.Config(
        tbl_rows=MAX_SAMPLE_ROWS, tbl_cols=-1, tbl_width_chars=200, tbl_formatting="ASCII_MARKDOWN"
    ):
        return str(frame.head(MAX_SAMPLE_ROWS))


@dataclass(frozen=True)
class CandleDiff:
    """What makes stored candles equal to computed ones.

    Attributes:
        dropped_keys: indexes (column `row` of the stored frame) of the rows that go.
        written: the rows that come, with clocks, in the columns of a candle table.
        outcomes: a row a key, with `window_start` and `fate`: added, changed, removed or unchanged.
    """

    dropped_keys: pl.Series
    written: pl.DataFrame
    outcomes: pl.DataFrame


def diff_candles(stored: pl.DataFrame, computed: pl.DataFrame, now: datetime) -> CandleDiff:
    """Compare the stored candles of some windows with what they must be.

    Equal means every column but the two clocks, one row a key. `created_at` is kept, `updated_at` moves only
    where a value changed.

    Args:
        stored: candle rows with a column `row`, unique; keys may repeat or be off the grid, which is damage.
        computed: what `candles_from_windows` gives for the same windows.
        now: the clock for what is new or changed.
    """
    by_key = stored.with_columns(pl.len().over(*KEY_COLUMNS).alias("copies")).sort("created_at")
    first = by_key.unique(KEY_COLUMNS, keep="first", maintain_order=True)
    matched = computed.join(
        first.select(*KEY_COLUMNS, *VALUE_COLUMNS, "created_at", "row", "copies"),
        on=KEY_COLUMNS,
        how="left",
        suffix="_stored",
    )
    equal = reduce(
        lambda left, right: left & right,
        (pl.col(c).eq_missing(pl.col(f"{c}_stored")) for c in VALUE_COLUMNS),
        pl.col("copies").eq_missing(1),
    )
    known = pl.when(equal).then(pl.lit("unchanged")).otherwise(pl.lit("changed"))
    fate = pl.when(pl.col("row").is_null()).then(pl.lit("added")).otherwise(known)
    matched = matched.with_columns(fate.alias("fate"))
    kept = matched.filter(pl.col("fate") == "unchanged")["row"]
    written = matched.filter(pl.col("fate") != "unchanged").with_columns(
        pl.col("created_at").fill_null(now), pl.lit(now, pl.Datetime("us", "UTC")).alias("updated_at")
    )
    replaced = matched.filter(pl.col("fate") == "changed").select("row")
    dropped = stored.filter(~pl.col("row").is_in(kept.implode()))
    removed = dropped.join(replaced, on="row", how="anti").select(
        "window_start", pl.lit("removed").alias("fate")
    )
    return CandleDiff(
        dropped["row"],
        written.select(*CANDLE_TYPES).cast(pl.Schema(CANDLE_TYPES)),
        pl.concat([matched.select("window_start", "fate"), removed]),
    )


def is_in_intervals(column: str, intervals: Sequence[Interval]) -> pl.Expr:
    """Whether a moment lies in any of the intervals.

    Compared as microseconds: Polars makes a frame of its own for every literal that is a time.
    """
    at = pl.col(column).dt.epoch("us")
    return reduce(
        lambda left, right: left | right,
        ((at >= to_micros(interval.start)) & (at < to_micros(interval.end)) for interval in intervals),
        pl.lit(False),  # the identity of "or"
    )


assert set(CANDLE_TYPES) == {*KEY_COLUMNS, *VALUE_COLUMNS, *AUDIT_COLUMNS}
