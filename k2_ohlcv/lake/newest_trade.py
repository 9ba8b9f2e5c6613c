"""Which trade is the newest: its market and id, read from the files whose bounds say that it is in them.

The moment alone, from metadata, is `lines.newest_trade`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import structlog
from pyiceberg.expressions import And, GreaterThanOrEqual, LessThanOrEqual, Reference
from pyiceberg.expressions.literals import literal
from pyiceberg.table import Table
from pyiceberg.types import LongType, TimestamptzType

from k2_ohlcv.domain.intervals import MICROSECOND, Interval, from_micros, to_micros
from k2_ohlcv.lake.external_trades import ExternalTrades, find_time_column
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, LiveFile, live_files
from k2_ohlcv.lake.time_column import TimeColumn

_MARKET = ("exchange", "symbol", "trade_id")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class NewestTrade:
    """The newest trade of a table. Market and id are None where they cannot be read."""

    timestamp: datetime
    exchange: str | None = None
    symbol: str | None = None
    trade_id: str | None = None

    @property
    def as_text(self) -> str:
        """The trade in words."""
        if self.exchange is None or self.symbol is None:
            return f"a trade of {self.timestamp:%Y-%m-%d %H:%M:%S} UTC, whose row cannot be read"
        named = f"trade {self.trade_id}" if self.trade_id is not None else "the trade"
        return f"{named} of {self.exchange} {self.symbol} at {self.timestamp:%Y-%m-%d %H:%M:%S} UTC"

    def as_json(self) -> dict[str, object]:
        """The trade as one JSON object."""
        return {
            "exchange": self.exchange,
            "symbol": self.symbol,
            "trade_id": self.trade_id,
            "timestamp": self.timestamp.isoformat(),
        }


def find_newest_trade(trades: Table) -> NewestTrade | None:
    """The newest trade of the table as it was loaded; None where there are none, or no file says its time."""
    found = live_files(trades, trades.metadata.current_snapshot_id)
    dated = [(f.latest, f) for f in found if not f.is_delete and f.latest is not None]
    if not dated:
        return None
    latest, newest = max(dated, key=lambda pair: pair[0])
    try:
        row = max(_newest_rows(trades, newest, latest), key=lambda r: r[TRADE_TIME_COLUMN], default=None)
    except (ValueError, NotImplementedError) as error:
        # Such as delete files that PyIceberg does not read: what set the clock is still worth saying.
        _log.warning("the newest trade cannot be read", path=newest.path, error=str(error))
        row = None
    return NewestTrade(latest) if row is None else NewestTrade(row[TRADE_TIME_COLUMN], *_as_texts(row))


def _as_texts(row: Mapping[str, Any]) -> list[str | None]:
    return [None if row.get(name) is None else str(row[name]) for name in _MARKET]


def _newest_rows(trades: Table, newest: LiveFile, latest: datetime) -> Iterator[dict[str, Any]]:
    """The newest row of each batch of what may be the newest rows, under our names.

    A bound is a moment that a row has. A file may hold impossible moments beside it: these set no clock.
    """
    time = find_time_column(trades, TRADE_TIME_COLUMN)
    theirs = {
        name: theirs for name in (TRADE_TIME_COLUMN, *_MARKET) if (theirs := _column_name(trades, name))
    }
    span = Interval(latest, latest + MICROSECOND) if time.file_bounds(newest.file) else newest.span
    first, last = (_time_literal(time, _column_value(time, moment)) for moment in (span.start, span.last))
    column = Reference(time.field.name)
    # Without a snapshot's id the scan takes the names of the current schema, as ours do.
    scan = trades.scan(
        And(
            GreaterThanOrEqual(term=column, value=literal(first)),
            LessThanOrEqual(term=column, value=literal(last)),
        ),
        selected_fields=tuple(theirs.values()),
    )
    for batch in scan.to_arrow_batch_reader():
        rows = pl.DataFrame(batch)
        if rows.height:
            moments = time.micros(rows[time.field.name])
            row = rows.row(moments.arg_max() or 0, named=True)
            moment = from_micros(int(moments.max() or 0))  # type: ignore[arg-type] # micros are ints
            yield {**{name: row[column] for name, column in theirs.items()}, TRADE_TIME_COLUMN: moment}


def _column_name(trades: Table, column: str) -> str | None:
    if isinstance(trades, ExternalTrades):
        field = trades.field(column)
        return field.name if field else None
    return column


def _column_value(time: TimeColumn, moment: datetime) -> int:
    return to_micros(moment) // time.time_unit.micros(1)


def _time_literal(time: TimeColumn, value: int) -> int | str:
    if isinstance(time.field.field_type, LongType):
        return value
    moment = from_micros(value)
    zoned = isinstance(time.field.field_type, TimestamptzType)
    return (moment if zoned else moment.astimezone(UTC).replace(tzinfo=None)).isoformat()
