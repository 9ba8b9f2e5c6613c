"""Counts trades with impossible times by market. Candles leave these trades out, and a check reports them.

`domain.trading_times` defines the possible times. File metadata shows which files may have such rows. Usually
there are none, and no file is read.
"""

from collections import OrderedDict
from dataclasses import dataclass

from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, from_micros
from k2_ohlcv.engine.delete_support import reject_unsupported_deletes
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.sql_terms import column_of, time_sql, time_unit_of
from k2_ohlcv.engine.trades_reader import read_rows
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.time_column import TimeUnit
from k2_ohlcv.lake.trade_columns import snapshot_columns


@dataclass(frozen=True)
class ImpossibleTimes:
    """The rows of a market with an impossible time or without a time.

    Attributes:
        exchange, symbol: the market in the table. None if the value is null.
        rows: the number of rows.
        earliest, latest: the first and last time, as text. None if no row has a time.
    """

    exchange: str | None
    symbol: str | None
    rows: int
    earliest: str | None
    latest: str | None


def find_impossible_times(
    engine: Engine, trades: Table, snapshot: int, times: Interval
) -> list[ImpossibleTimes]:
    """Find the markets with trades outside the possible times. Markets with the most rows come first.

    Args:
        engine: the session. It is not used if metadata excludes such rows.
        trades: the trades table. Its current metadata must have the snapshot.
        snapshot: the trades snapshot id.
        times: the possible times of a trade (`trading_times`).
    """
    files = live_files(trades, snapshot)
    if not any(f.has_impossible_times for f in files):
        return []
    key = (str(trades.metadata.table_uuid), snapshot, times)
    if key not in _cached_counts:
        _cached_counts[key] = _count_rows(engine, trades, snapshot, times)
        while len(_cached_counts) > _MAX_CACHED:
            _cached_counts.popitem(last=False)
    return _cached_counts[key]


#: The latest counts. Every candle table of a run needs the same counts.
_cached_counts: OrderedDict[tuple[str, int, Interval], list[ImpossibleTimes]] = OrderedDict()
_MAX_CACHED = 8


def _count_rows(engine: Engine, trades: Table, snapshot: int, times: Interval) -> list[ImpossibleTimes]:
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    reject_unsupported_deletes(engine, trades, snapshot)
    fields, unit = snapshot_columns(trades, snapshot), time_unit_of(trades)
    at, moment = time_sql(trades, snapshot)
    outside = f"{at} IS NULL OR {at} < {moment(times.start)} OR {at} >= {moment(times.end)}"
    raw = column_of(fields["timestamp"])
    if unit is TimeUnit.LOCAL:
        raw = raw.cast("timestamp")  # the session is in UTC
    rows = read_rows(engine, trades, snapshot).where(F.expr(outside))
    impossible = rows.select(
        column_of(fields["exchange"]).alias("exchange"),
        column_of(fields["symbol"]).alias("symbol"),
        (F.unix_micros(raw) if unit in {TimeUnit.ZONED, TimeUnit.LOCAL} else raw).alias("at"),
    )
    counts = impossible.groupBy("exchange", "symbol").agg(
        F.count(F.lit(1)).alias("rows"), F.min("at").alias("earliest"), F.max("at").alias("latest")
    )
    markets = [
        ImpossibleTimes(
            row["exchange"],
            row["symbol"],
            row["rows"],
            *(_text(unit, row[name]) for name in ("earliest", "latest")),
        )
        for row in counts.toArrow().to_pylist()
    ]
    return sorted(markets, key=lambda market: (-market.rows, market.exchange or "", market.symbol or ""))


def _text(unit: TimeUnit, value: int | None) -> str | None:
    """Format a time as ISO 8601, or as a number if it is outside Python's calendar."""
    if value is None:
        return None
    try:
        return from_micros(unit.micros(value)).isoformat()
    except OverflowError:
        return f"{value}"
