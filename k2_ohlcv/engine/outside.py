"""Trades of impossible times, counted by market: candles leave them out, and a check names them.

What is possible is in `domain.trading_times`. Only the files that may hold such rows are read: metadata says
which those are, and mostly there are none.
"""

from collections import OrderedDict
from dataclasses import dataclass

from pyiceberg.table import Table

from k2_ohlcv.domain.window import Interval, from_micros
from k2_ohlcv.engine.honour import refuse_unhonoured
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.sql_terms import clock_of, column, time_terms
from k2_ohlcv.engine.ticks import rows_of
from k2_ohlcv.lake.files import live_files
from k2_ohlcv.lake.foreign import Clock
from k2_ohlcv.lake.trade_columns import columns_at


@dataclass(frozen=True)
class Outside:
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


def rows_outside(engine: Engine, trades: Table, snapshot: int, times: Interval) -> list[Outside]:
    """The markets that have trades outside some times at a snapshot, those with the most rows first.

    Args:
        engine: the session to count in; untouched where metadata says that there are none.
        trades: the trades table; its current metadata must know the snapshot.
        snapshot: the trades snapshot id.
        times: the times that a trade can have (`trading_times`).
    """
    files = live_files(trades, snapshot)
    if not any(f.strays for f in files):
        return []
    key = (str(trades.metadata.table_uuid), snapshot, times)
    if key not in _COUNTED:
        _COUNTED[key] = _counted(engine, trades, snapshot, times)
        while len(_COUNTED) > _MOST_COUNTED:
            _COUNTED.popitem(last=False)
    return _COUNTED[key]


#: The counts made last: each candle table of a run asks for the same ones.
_COUNTED: OrderedDict[tuple[str, int, Interval], list[Outside]] = OrderedDict()
_MOST_COUNTED = 8


def _counted(engine: Engine, trades: Table, snapshot: int, times: Interval) -> list[Outside]:
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    refuse_unhonoured(engine, trades, snapshot)
    theirs, clock = columns_at(trades, snapshot), clock_of(trades)
    at, moment = time_terms(trades, snapshot)
    outside = f"{at} IS NULL OR {at} < {moment(times.start)} OR {at} >= {moment(times.end)}"
    raw = column(theirs["timestamp"])
    if clock is Clock.LOCAL:
        raw = raw.cast("timestamp")  # the session is in UTC
    rows = rows_of(engine, trades, snapshot).where(F.expr(outside))
    found = rows.select(
        column(theirs["exchange"]).alias("exchange"),
        column(theirs["symbol"]).alias("symbol"),
        (F.unix_micros(raw) if clock in {Clock.ZONED, Clock.LOCAL} else raw).alias("at"),
    )
    counted = found.groupBy("exchange", "symbol").agg(
        F.count(F.lit(1)).alias("rows"), F.min("at").alias("earliest"), F.max("at").alias("latest")
    )
    markets = [
        Outside(
            row["exchange"],
            row["symbol"],
            row["rows"],
            *(_text(clock, row[name]) for name in ("earliest", "latest")),
        )
        for row in counted.toArrow().to_pylist()
    ]
    return sorted(markets, key=lambda one: (-one.rows, one.exchange or "", one.symbol or ""))


def _text(clock: Clock, value: int | None) -> str | None:
    """A time as people write it, or the bare number where it is beyond all calendars."""
    if value is None:
        return None
    try:
        return from_micros(clock.micros(value)).isoformat()
    except OverflowError:
        return f"{value}"
