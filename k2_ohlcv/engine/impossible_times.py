"""Trades of impossible times, counted by market: candles leave them out, and a check names them.

What is possible is in `domain.trading_times`. Only the files that may hold such rows are read: metadata says
which those are, and mostly there are none.
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
    """The rows of a market that have an impossible time, or none.

    Attributes:
        exchange, symbol: the market, as the table says it; None where it says none.
        rows: how many.
        earliest, latest: their first and last time, as text; None where all have none.
    """

    exchange: str | None
    symbol: str | None
    rows: int
    earliest: str | None
    latest: str | None


def find_impossible_times(
    engine: Engine, trades: Table, snapshot: int, times: Interval
) -> list[ImpossibleTimes]:
    """The markets that have trades outside some times at a snapshot, those with the most rows first.

    Args:
        engine: the session to count in; untouched where metadata says that there are none.
        trades: the trades table; its current metadata must know the snapshot.
        snapshot: the trades snapshot id.
        times: the times that a trade can have (`trading_times`).
    """
    files = live_files(trades, snapshot)
    if not any(f.has_impossible_times for f in files):
        return []
    key = (str(trades.metadata.table_uuid), snapshot, times)
    if key not in _COUNT_COLUMNS:
        _COUNT_COLUMNS[key] = _count_rows(engine, trades, snapshot, times)
        while len(_COUNT_COLUMNS) > _MAX_MARKETS:
            _COUNT_COLUMNS.popitem(last=False)
    return _COUNT_COLUMNS[key]


#: The counts made last: each candle table of a run asks for the same ones.
_COUNT_COLUMNS: OrderedDict[tuple[str, int, Interval], list[ImpossibleTimes]] = OrderedDict()
_MAX_MARKETS = 8


def _count_rows(engine: Engine, trades: Table, snapshot: int, times: Interval) -> list[ImpossibleTimes]:
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    reject_unsupported_deletes(engine, trades, snapshot)
    theirs, clock = snapshot_columns(trades, snapshot), time_unit_of(trades)
    at, moment = time_sql(trades, snapshot)
    outside = f"{at} IS NULL OR {at} < {moment(times.start)} OR {at} >= {moment(times.end)}"
    raw = column_of(theirs["timestamp"])
    if clock is TimeUnit.LOCAL:
        raw = raw.cast("timestamp")  # the session is in UTC
    rows = read_rows(engine, trades, snapshot).where(F.expr(outside))
    found = rows.select(
        column_of(theirs["exchange"]).alias("exchange"),
        column_of(theirs["symbol"]).alias("symbol"),
        (F.unix_micros(raw) if clock in {TimeUnit.ZONED, TimeUnit.LOCAL} else raw).alias("at"),
    )
    counted = found.groupBy("exchange", "symbol").agg(
        F.count(F.lit(1)).alias("rows"), F.min("at").alias("earliest"), F.max("at").alias("latest")
    )
    markets = [
        ImpossibleTimes(
            row["exchange"],
            row["symbol"],
            row["rows"],
            *(_text(clock, row[name]) for name in ("earliest", "latest")),
        )
        for row in counted.toArrow().to_pylist()
    ]
    return sorted(markets, key=lambda one: (-one.rows, one.exchange or "", one.symbol or ""))


def _text(clock: TimeUnit, value: int | None) -> str | None:
    """A time as people write it, or the bare number where it is beyond all calendars."""
    if value is None:
        return None
    try:
        return from_micros(clock.micros(value)).isoformat()
    except OverflowError:
        return f"{value}"
