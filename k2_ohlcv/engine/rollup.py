"""The rollup: from trades at one snapshot to whole windows, in one DataFrame expression.

It runs alike on Sail and on Apache Spark. What is done with the windows (vwap, comparison, commit) is the
driver's work, in `lake.candles`.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.table import Table

from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.domain.window import Interval, bound, coalesce, covers
from k2_ohlcv.lake.catalog import CATALOG

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from k2_ohlcv.engine.session import Engine

#: Sail fails at 64 left-deep alternatives and takes 1,000 balanced ones: we bound and balance.
MOST_INTERVALS = 64
#: Rows that may wait on the shelf for the other tables of the same run: about 250 MB.
_SHELF_ROWS = 1_000_000

#: What a rollup gives, one row a window, in this order. notional is the exact sum of price x quantity.
WINDOWS = pa.schema(
    [
        ("symbol", pa.string()),
        ("exchange", pa.string()),
        ("window_start", pa.timestamp("us", "UTC")),
        ("open_price", pa.decimal128(18, 8)),
        ("high_price", pa.decimal128(18, 8)),
        ("low_price", pa.decimal128(18, 8)),
        ("close_price", pa.decimal128(18, 8)),
        ("volume", pa.decimal128(29, 8)),
        ("trade_count", pa.int64()),
        ("notional", pa.decimal128(38, 16)),
    ]
)


@dataclass
class Shelf:
    """Windows already computed by a scan for another timeframe of the same session, each given out once."""

    _entries: dict[tuple[int, str], tuple[list[Interval], pa.Table]] = field(default_factory=dict)

    def put(self, snapshot: int, name: str, intervals: list[Interval], windows: pa.Table) -> None:
        """Keep these windows, unless that would keep too many."""
        if windows.num_rows + sum(kept.num_rows for _, kept in self._entries.values()) <= _SHELF_ROWS:
            self._entries[snapshot, name] = (intervals, windows)

    def take(self, snapshot: int, name: str, intervals: list[Interval]) -> pa.Table | None:
        """The windows of exactly these intervals, or None."""
        kept = self._entries.get((snapshot, name))
        if kept is None or not covers(kept[0], intervals):
            return None
        del self._entries[snapshot, name]
        return (
            kept[1].filter(_within(kept[1]["window_start"], intervals)) if kept[0] != intervals else kept[1]
        )


def _within(moments: pa.ChunkedArray, intervals: Sequence[Interval]) -> pa.ChunkedArray:
    masks = [pc.and_(pc.greater_equal(moments, i.start), pc.less(moments, i.end)) for i in intervals]
    return reduce(pc.or_, masks)


def windows(
    engine: "Engine", trades: Table, snapshot: int, timeframe: Timeframe, intervals: Sequence[Interval]
) -> pa.Table:
    """Every window of the intervals that has trades, from the trades as they were at a snapshot.

    Args:
        engine: the session to compute in.
        trades: the trades table; its current metadata must know the snapshot.
        snapshot: the pinned trades snapshot id.
        timeframe: which windows.
        intervals: aligned to the timeframe's windows.

    Returns:
        A table of the schema `WINDOWS`, in no particular order.
    """
    intervals = coalesce(intervals)
    if not intervals:
        return WINDOWS.empty_table()
    taken = engine.shelf.take(snapshot, timeframe.name, intervals)
    if taken is not None:
        return taken
    ticks = _ticks(_between(read_trades(engine, trades, snapshot), bound(intervals, MOST_INTERVALS)))
    others = [t for t in _shared(engine, timeframe) if t.align(intervals) == intervals]
    if not others:
        return _exactly(rollup(ticks, timeframe).select(*WINDOWS.names).toArrow(), intervals)
    by_name = _rollup_all(ticks, [timeframe, *others])
    for other in others:
        engine.shelf.put(snapshot, other.name, intervals, _exactly(by_name[other.name], intervals))
    return _exactly(by_name[timeframe.name], intervals)


def _shared(engine: "Engine", timeframe: Timeframe) -> list[Timeframe]:
    return [t for t in TIMEFRAMES if t.name in engine.share and t.length > timeframe.length]


def _exactly(found: pa.Table, intervals: Sequence[Interval]) -> pa.Table:
    found = found.cast(WINDOWS)
    return (
        found.filter(_within(found["window_start"], intervals)) if len(intervals) > MOST_INTERVALS else found
    )


def read_trades(engine: "Engine", trades: Table, snapshot: int) -> "DataFrame":
    """The trades as they were at a snapshot."""
    reader = engine.spark.read.format("iceberg").option("versionAsOf", str(snapshot))
    if engine.embedded:
        return reader.load(_private_folder(engine.workspace, trades))
    return reader.load(f"{CATALOG}.{'.'.join(trades.name())}")


def _private_folder(workspace: Path, table: Table) -> str:
    """A folder that holds only the table's current metadata file, and so leads Sail to no other.

    Sail takes the newest metadata that it finds by listing the table's folder, and a writer that lost a race
    leaves an orphan there. All that the file names, it names by absolute location.
    """
    parts = urlsplit(table.metadata_location)
    if parts.scheme not in {"", "file"}:
        return table.location()
    source = Path(url2pathname(parts.path))
    folder = workspace / f"{table.metadata.table_uuid}-{source.name.removesuffix('.metadata.json')}"
    target = folder / "metadata" / source.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return str(folder)


def _between(trades: "DataFrame", intervals: Sequence[Interval]) -> "DataFrame":
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    def one(interval: Interval) -> "Column":
        at = F.col("timestamp")
        return (at >= F.lit(interval.start)) & (at < F.lit(interval.end))

    def tree(branch: Sequence[Interval]) -> "Column":
        half = len(branch) // 2
        return one(branch[0]) if len(branch) == 1 else tree(branch[:half]) | tree(branch[half:])

    return trades.where(tree(intervals))


def _ticks(trades: "DataFrame") -> "DataFrame":
    """Each trade as a window of its own, so that trades and windows are rolled up by one expression."""
    from pyspark.sql import functions as F  # noqa: N812

    price, at, trade_id = F.col("price"), F.col("timestamp"), F.col("trade_id")
    return trades.select(
        "symbol",
        "exchange",
        at.alias("open_at"),
        trade_id.alias("open_id"),
        price.alias("open_price"),
        at.alias("close_at"),
        trade_id.alias("close_id"),
        price.alias("close_price"),
        price.alias("high_price"),
        price.alias("low_price"),
        F.col("quantity").alias("volume"),
        F.lit(1).cast("long").alias("trade_count"),
        (price * F.col("quantity")).alias("notional"),
    )


def rollup(ticks: "DataFrame", timeframe: Timeframe, *, ordered: bool = False) -> "DataFrame":
    """Whole windows of a timeframe, from trades or from shorter windows of them. The one expression.

    Args:
        ticks: rows as `_ticks` gives them, or as this gives them with `ordered`.
        timeframe: the windows to make.
        ordered: keep which trades opened and closed each window, so that the result can be rolled up again.
    """
    return _group(ticks.withColumn("window_start", _floor("open_at", timeframe)), ordered=ordered)


def _rollup_all(ticks: "DataFrame", timeframes: Sequence[Timeframe]) -> dict[str, pa.Table]:
    """The windows of several timeframes from one scan; the length of the first divides the others'."""
    from pyspark.sql import functions as F  # noqa: N812

    finest = rollup(ticks, timeframes[0], ordered=True)
    keys = [
        F.struct(F.lit(t.name).alias("timeframe"), _floor("window_start", t).alias("start"))
        for t in timeframes
    ]
    exploded = finest.withColumn("key", F.explode(F.array(*keys)))
    each = exploded.withColumn("timeframe", F.col("key.timeframe")).withColumn(
        "window_start", F.col("key.start")
    )
    found = _group(each, "timeframe").select("timeframe", *WINDOWS.names).toArrow()
    return {
        t.name: found.filter(pc.equal(found["timeframe"], t.name)).drop_columns("timeframe")
        for t in timeframes
    }


def _floor(column: str, timeframe: Timeframe) -> "Column":
    from pyspark.sql import functions as F  # noqa: N812

    micros = F.unix_micros(column)
    return F.timestamp_micros(micros - micros % F.lit(timeframe.micros))


def _group(ticks: "DataFrame", *keys: str, ordered: bool = False) -> "DataFrame":
    from pyspark.sql import functions as F  # noqa: N812

    def end(which: str) -> tuple["Column", "Column"]:
        at, trade_id, price = F.col(f"{which}_at"), F.col(f"{which}_id"), F.col(f"{which}_price")
        order = F.struct(at, F.length(trade_id).alias("length"), trade_id)
        return (F.struct(at, trade_id, price) if ordered else price), order

    keys = (*keys, "symbol", "exchange", "window_start")
    grouped = ticks.groupBy(*keys).agg(
        F.min_by(*end("open")).alias("open"),
        F.max_by(*end("close")).alias("close"),
        F.max("high_price").alias("high_price"),
        F.min("low_price").alias("low_price"),
        # The casts take back the digits that a second sum would add.
        F.sum("volume").cast("decimal(29,8)").alias("volume"),
        F.sum("trade_count").alias("trade_count"),
        F.sum("notional").cast("decimal(38,16)").alias("notional"),
    )
    ends = ["open.*", "close.*"] if ordered else [F.col(e).alias(f"{e}_price") for e in ("open", "close")]
    return grouped.select(*keys, "high_price", "low_price", "volume", "trade_count", "notional", *ends)
