"""Rolls up the trades of a snapshot into windows, in one DataFrame expression.

Sail and Apache Spark give the same result. Computing vwap and comparing windows is in `frames.candles`, and
committing candles in `lake.candles`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, merge_to_at_most, to_micros
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.trading_times import clip_to_trading_times
from k2_ohlcv.domain.types import NOTIONAL, PRICE, VOLUME
from k2_ohlcv.engine.external_values import INVALID_ROWS
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.trades_reader import TradesFrame, read_trades
from k2_ohlcv.engine.window_cache import WindowCache, is_within
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.metadata.files import live_files

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

#: The most intervals in a filter. Sail fails at 64 left-deep alternatives, and accepts 1,000 balanced ones.
#: The filter is therefore bounded and balanced.
MAX_INTERVALS = 64
#: A filter of few intervals is cheap. A list of up to this many window starts can be added to the filter.
_FEW_INTERVALS, _MAX_STARTS = 8, 2_000

#: The columns of a rollup, one row per window. notional is the exact sum of price x quantity.
#: misfits counts trades that cannot be read exactly. If a window has some, its other values have no meaning.
WINDOW_SCHEMA = pa.schema(
    [
        ("symbol", pa.string()),
        ("exchange", pa.string()),
        ("window_start", pa.timestamp("us", "UTC")),
        ("open_price", pa.decimal128(*PRICE)),
        ("high_price", pa.decimal128(*PRICE)),
        ("low_price", pa.decimal128(*PRICE)),
        ("close_price", pa.decimal128(*PRICE)),
        ("volume", pa.decimal128(*VOLUME)),
        ("trade_count", pa.int64()),
        ("notional", pa.decimal128(*NOTIONAL)),
        (INVALID_ROWS, pa.int64()),
    ]
)
_COMPUTED_COLUMNS = [name for name in WINDOW_SCHEMA.names if name != INVALID_ROWS]


def compute_windows(
    engine: Engine,
    trades: Table,
    snapshot: int,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    *,
    cache: WindowCache | None = None,
) -> pa.Table:
    """Compute every window with trades in some intervals, from the trades of a snapshot.

    The result has the schema `WINDOW_SCHEMA`, in no particular order.

    Args:
        engine: the session to compute in.
        trades: the trades table. Its current metadata must have the snapshot.
        snapshot: the pinned trades snapshot id.
        timeframe: the length of the windows.
        intervals: aligned to the timeframe's windows. Impossible trade times are left out.
        cache: windows of earlier scans. This scan adds windows of longer timeframes of the cache, if the
            intervals are aligned to them.
    """
    intervals = clip_to_trading_times(intervals)
    if not intervals:
        return WINDOW_SCHEMA.empty_table()
    cache = cache or WindowCache([])
    if (cached := cache.pop(snapshot, timeframe.name, intervals)) is not None:
        return cached
    read = _read_trades(engine, trades, snapshot, timeframe, intervals)
    longer = [t for t in cache.timeframes if t.length > timeframe.length and t.align(intervals) == intervals]
    if not longer:
        frame = rollup(_as_windows(read), timeframe, checked=read.is_checked)
        return _clip_and_check(read, read.collect(frame.select(*_column_names(read))), intervals)
    by_timeframe = {
        t: _clip_and_check(read, windows, intervals)
        for t, windows in _rollup_all(read, [timeframe, *longer]).items()
    }
    for other in longer:
        cache.put(snapshot, other.name, intervals, by_timeframe[other])
    return by_timeframe[timeframe]


def _read_trades(
    engine: Engine, trades: Table, snapshot: int, timeframe: Timeframe, intervals: Sequence[Interval]
) -> TradesFrame:
    """Read the trades of some intervals, and of the gaps between them if there are too many intervals.

    Each range costs two comparisons per row. A few ranges and a list of window starts cost half. The list is
    used only if no more files have to be read.
    """
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    ranges, few = merge_to_at_most(intervals, MAX_INTERVALS), merge_to_at_most(intervals, _FEW_INTERVALS)
    bounds = [(to_micros(i.start), to_micros(i.end)) for i in intervals] if few != ranges else []
    starts = [at for start, end in bounds for at in range(start, end, timeframe.micros)]
    files = live_files(trades, snapshot) if starts else []
    reads_more_files = any(_has_overlap(f.span, few) and not _has_overlap(f.span, ranges) for f in files)
    if isinstance(trades, ExternalTrades) or reads_more_files or not 0 < len(starts) <= _MAX_STARTS:
        return read_trades(engine, trades, snapshot, ranges)
    read = read_trades(engine, trades, snapshot, few)
    micros = "unix_micros(timestamp)"
    rest = f"pmod({micros}, {timeframe.micros}L)"
    is_listed = F.expr(f"{micros} - {rest} IN ({', '.join(f'{s}L' for s in starts)})")
    return replace(read, frame=read.frame.where(is_listed))


def _has_overlap(span: Interval, intervals: Sequence[Interval]) -> bool:
    return any(span.intersect(interval) for interval in intervals)


def read_trades_between(
    engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]
) -> "DataFrame":
    """Read the trades of some intervals at a snapshot, in the project's columns and types."""
    return read_trades(engine, trades, snapshot, intervals).frame


def _column_names(read: TradesFrame) -> list[str]:
    return [*_COMPUTED_COLUMNS, *([INVALID_ROWS] if read.is_checked else [])]


def _clip_and_check(read: TradesFrame, windows: pa.Table, intervals: Sequence[Interval]) -> pa.Table:
    """Remove windows outside the intervals, and add the count of invalid rows if it is missing."""
    if not read.is_checked:
        windows = windows.append_column(INVALID_ROWS, pa.repeat(pa.scalar(0, pa.int64()), windows.num_rows))
    windows = windows.cast(WINDOW_SCHEMA)
    if len(intervals) <= MAX_INTERVALS:
        return windows
    return windows.filter(is_within(windows["window_start"], intervals))


def describe_invalid_rows(engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]) -> str:
    """Describe the trades of some intervals that cannot be read exactly."""
    ranges = merge_to_at_most(intervals, MAX_INTERVALS)
    return str(read_trades(engine, trades, snapshot, ranges).invalid_rows_error(ranges))


def _as_windows(read: TradesFrame) -> "DataFrame":
    """Convert each trade to a window of one trade. One expression then rolls up trades and windows.

    For trades of one time the id breaks the tie, and numeric ids compare as numbers. Without ids, price and
    quantity break the tie. Trades that are equal in both give the same candle in any order.
    """
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    at, price, quantity = F.col("timestamp"), F.col("price"), F.col("quantity")
    ties = (F.length("trade_id"), F.col("trade_id")) if read.has_ids else (price, quantity)
    ends = {"at": at, "tie": ties[0], "tie2": ties[1], "price": price}
    return read.frame.select(
        "symbol",
        "exchange",
        *(column.alias(f"open_{name}") for name, column in ends.items()),
        *(column.alias(f"close_{name}") for name, column in ends.items()),
        price.alias("high_price"),
        price.alias("low_price"),
        quantity.alias("volume"),
        F.lit(1).cast("long").alias("trade_count"),
        (price * quantity).alias("notional"),
        *([INVALID_ROWS] if read.is_checked else []),
    )


def rollup(
    parts: "DataFrame", timeframe: Timeframe, *, ordered: bool = False, checked: bool = False
) -> "DataFrame":
    """Roll up trades, or shorter windows, into windows of a timeframe.

    Args:
        parts: trades from `_as_windows`, or the result of this function with `ordered`.
        timeframe: the length of the windows.
        ordered: add the order of the opening and closing trades, so that the result can be rolled up again.
        checked: sum the invalid rows.
    """
    starts = parts.withColumn("window_start", window_start_of("open_at", timeframe))
    return _group_columns(starts, ordered=ordered, checked=checked)


def _rollup_all(read: TradesFrame, timeframes: Sequence[Timeframe]) -> dict[Timeframe, pa.Table]:
    """Compute windows of several timeframes in one scan. The first length divides the other lengths."""
    from pyspark.sql import functions as F  # noqa: N812

    finest = rollup(_as_windows(read), timeframes[0], ordered=True, checked=read.is_checked)
    keys = [
        F.struct(F.lit(t.name).alias("timeframe"), window_start_of("window_start", t).alias("start"))
        for t in timeframes
    ]
    exploded = finest.withColumn("key", F.explode(F.array(*keys)))
    keyed = exploded.withColumn("timeframe", F.col("key.timeframe")).withColumn(
        "window_start", F.col("key.start")
    )
    frame = _group_columns(keyed, "timeframe", checked=read.is_checked).select(
        "timeframe", *_column_names(read)
    )
    windows = read.collect(frame)
    return {
        t: windows.filter(pc.equal(windows["timeframe"], t.name)).drop_columns("timeframe")
        for t in timeframes
    }


def window_start_of(column: str, timeframe: Timeframe) -> "Column":
    """The start of the window of a time. `pmod` is right before 1970 too, where `%` gives the next window."""
    from pyspark.sql import functions as F  # noqa: N812

    micros = F.unix_micros(column)
    return F.timestamp_micros(micros - F.pmod(micros, F.lit(timeframe.micros)))


def _group_columns(
    parts: "DataFrame", *keys: str, ordered: bool = False, checked: bool = False
) -> "DataFrame":
    from pyspark.sql import functions as F  # noqa: N812

    def edge(which: str) -> tuple["Column", "Column"]:
        order = [F.col(f"{which}_{part}") for part in ("at", "tie", "tie2")]
        price = F.col(f"{which}_price")
        return (F.struct(*order, price) if ordered else price), F.struct(*order)

    keys = (*keys, "symbol", "exchange", "window_start")
    grouped = parts.groupBy(*keys).agg(
        F.min_by(*edge("open")).alias("open"),
        F.max_by(*edge("close")).alias("close"),
        F.max("high_price").alias("high_price"),
        F.min("low_price").alias("low_price"),
        # A second sum would add digits to the decimal types. The casts remove these digits.
        F.sum("volume").cast(str(VOLUME)).alias("volume"),
        F.sum("trade_count").alias("trade_count"),
        F.sum("notional").cast(str(NOTIONAL)).alias("notional"),
        *([F.sum(INVALID_ROWS).alias(INVALID_ROWS)] if checked else []),
    )
    sums = ["volume", "trade_count", "notional", *([INVALID_ROWS] if checked else [])]
    ends = ["open.*", "close.*"] if ordered else [F.col(e).alias(f"{e}_price") for e in ("open", "close")]
    return grouped.select(*keys, "high_price", "low_price", *sums, *ends)
