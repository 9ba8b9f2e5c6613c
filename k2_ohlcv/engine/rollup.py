"""The rollup: from trades at one snapshot to whole windows, in one DataFrame expression.

It runs alike on Sail and on Apache Spark. What is done with the windows (vwap, comparison, commit) is the
driver's work, in `lake.candles`.
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

#: Sail fails at 64 left-deep alternatives and takes 1,000 balanced ones: we bound and balance.
MAX_INTERVALS = 64
#: So few intervals cost nothing to speak of, and so many windows can be listed beside them.
_FEW_INTERVALS, _MAX_STARTS = 8, 2_000

#: What a rollup gives, one row a window, in this order. notional is the exact sum of price x quantity.
#: misfits counts the trades that cannot be read exactly: where there are some, the other values mean nothing.
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
    """Every window of the intervals that has trades, from the trades as they were at a snapshot.

    Args:
        engine: the session to compute in.
        trades: the trades table; its current metadata must know the snapshot.
        snapshot: the pinned trades snapshot id.
        timeframe: which windows.
        intervals: aligned to the timeframe's windows. What of them lies outside the times that a trade can
            have is left out.
        cache: windows that earlier scans computed for this timeframe. This scan adds windows of the other
            timeframes of the cache, where the intervals are aligned to them.

    Returns:
        A table of the schema `WINDOW_SCHEMA`, in no particular order.
    """
    intervals = clip_to_trading_times(intervals)
    if not intervals:
        return WINDOW_SCHEMA.empty_table()
    cache = cache or WindowCache([])
    cached = cache.pop(snapshot, timeframe.name, intervals)
    if cached is not None:
        return cached
    read = _read_trades(engine, trades, snapshot, timeframe, intervals)
    longer = [t for t in cache.timeframes if t.length > timeframe.length and t.align(intervals) == intervals]
    if not longer:
        frame = rollup(_as_windows(read), timeframe, checked=read.is_checked)
        return _clip_and_check(read, read.collect(frame.select(*_column_names(read))), intervals)
    by_timeframe = {
        t: _clip_and_check(read, found, intervals)
        for t, found in _rollup_all(read, [timeframe, *longer]).items()
    }
    for each in longer:
        cache.put(snapshot, each.name, intervals, by_timeframe[each])
    return by_timeframe[timeframe]


def _read_trades(
    engine: Engine, trades: Table, snapshot: int, timeframe: Timeframe, intervals: Sequence[Interval]
) -> TradesFrame:
    """The trades of some windows, and of further ones where there are too many intervals to name.

    Every range costs two comparisons a row. Where many can be a few and a list of windows, and no file more
    is opened for it, that costs half.
    """
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    ranges, few = merge_to_at_most(intervals, MAX_INTERVALS), merge_to_at_most(intervals, _FEW_INTERVALS)
    bounds = [(to_micros(i.start), to_micros(i.end)) for i in intervals] if few != ranges else []
    starts = [at for start, end in bounds for at in range(start, end, timeframe.micros)]
    files = live_files(trades, snapshot) if starts else []
    more = any(_has_overlap(f.span, few) and not _has_overlap(f.span, ranges) for f in files)
    if isinstance(trades, ExternalTrades) or more or not 0 < len(starts) <= _MAX_STARTS:
        return read_trades(engine, trades, snapshot, ranges)
    read = read_trades(engine, trades, snapshot, few)
    micros = "unix_micros(timestamp)"
    rest = f"pmod({micros}, {timeframe.micros}L)"
    listed = F.expr(f"{micros} - {rest} IN ({', '.join(f'{s}L' for s in starts)})")
    return replace(read, frame=read.frame.where(listed))


def _has_overlap(span: Interval, intervals: Sequence[Interval]) -> bool:
    return any(span.intersect(interval) for interval in intervals)


def read_trades_between(
    engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]
) -> "DataFrame":
    """The trades of some intervals, under our names and in our types, as they were at a snapshot."""
    return read_trades(engine, trades, snapshot, intervals).frame


def _column_names(read: TradesFrame) -> list[str]:
    return [*_COMPUTED_COLUMNS, *([INVALID_ROWS] if read.is_checked else [])]


def _clip_and_check(read: TradesFrame, found: pa.Table, intervals: Sequence[Interval]) -> pa.Table:
    """The windows of the intervals alone, with the number of trades in each that cannot be read exactly."""
    if not read.is_checked:
        found = found.append_column(INVALID_ROWS, pa.repeat(pa.scalar(0, pa.int64()), found.num_rows))
    found = found.cast(WINDOW_SCHEMA)
    if len(intervals) <= MAX_INTERVALS:
        return found
    return found.filter(is_within(found["window_start"], intervals))


def describe_invalid_rows(engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]) -> str:
    """Name the trades of some windows that cannot be read exactly."""
    ranges = merge_to_at_most(intervals, MAX_INTERVALS)
    return str(read_trades(engine, trades, snapshot, ranges).invalid_rows_error(ranges))


def _as_windows(read: TradesFrame) -> "DataFrame":
    """Each trade as a window of its own, so that trades and windows are rolled up by one expression.

    Among trades of one time the tie is broken by the id, numbers as numbers; without ids by what the trade
    says, and then it does not matter which of equal rows comes first.
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
    ticks: "DataFrame", timeframe: Timeframe, *, ordered: bool = False, checked: bool = False
) -> "DataFrame":
    """Whole windows of a timeframe, from trades or from shorter windows of them. The one expression.

    Args:
        ticks: rows as `_as_windows` gives them, or as this gives them with `ordered`.
        timeframe: the windows to make.
        ordered: keep which trades opened and closed each window, so that the result can be rolled up again.
        checked: sum the rows that do not fit.
    """
    starts = ticks.withColumn("window_start", window_start_of("open_at", timeframe))
    return _group_columns(starts, ordered=ordered, checked=checked)


def _rollup_all(read: TradesFrame, timeframes: Sequence[Timeframe]) -> dict[Timeframe, pa.Table]:
    """The windows of several timeframes from one scan; the length of the first divides the others'."""
    from pyspark.sql import functions as F  # noqa: N812

    finest = rollup(_as_windows(read), timeframes[0], ordered=True, checked=read.is_checked)
    keys = [
        F.struct(F.lit(t.name).alias("timeframe"), window_start_of("window_start", t).alias("start"))
        for t in timeframes
    ]
    exploded = finest.withColumn("key", F.explode(F.array(*keys)))
    each = exploded.withColumn("timeframe", F.col("key.timeframe")).withColumn(
        "window_start", F.col("key.start")
    )
    windows = _group_columns(each, "timeframe", checked=read.is_checked).select(
        "timeframe", *_column_names(read)
    )
    found = read.collect(windows)
    return {
        t: found.filter(pc.equal(found["timeframe"], t.name)).drop_columns("timeframe") for t in timeframes
    }


def window_start_of(column: str, timeframe: Timeframe) -> "Column":
    """The start of the window that a moment lies in. Before 1970 too, where `%` would take the next one."""
    from pyspark.sql import functions as F  # noqa: N812

    micros = F.unix_micros(column)
    return F.timestamp_micros(micros - F.pmod(micros, F.lit(timeframe.micros)))


def _group_columns(
    ticks: "DataFrame", *keys: str, ordered: bool = False, checked: bool = False
) -> "DataFrame":
    from pyspark.sql import functions as F  # noqa: N812

    def end(which: str) -> tuple["Column", "Column"]:
        order = [F.col(f"{which}_{part}") for part in ("at", "tie", "tie2")]
        price = F.col(f"{which}_price")
        return (F.struct(*order, price) if ordered else price), F.struct(*order)

    keys = (*keys, "symbol", "exchange", "window_start")
    grouped = ticks.groupBy(*keys).agg(
        F.min_by(*end("open")).alias("open"),
        F.max_by(*end("close")).alias("close"),
        F.max("high_price").alias("high_price"),
        F.min("low_price").alias("low_price"),
        # The casts take back the digits that a second sum would add.
        F.sum("volume").cast(str(VOLUME)).alias("volume"),
        F.sum("trade_count").alias("trade_count"),
        F.sum("notional").cast(str(NOTIONAL)).alias("notional"),
        *([F.sum(INVALID_ROWS).alias(INVALID_ROWS)] if checked else []),
    )
    sums = ["volume", "trade_count", "notional", *([INVALID_ROWS] if checked else [])]
    ends = ["open.*", "close.*"] if ordered else [F.col(e).alias(f"{e}_price") for e in ("open", "close")]
    return grouped.select(*keys, "high_price", "low_price", *sums, *ends)
