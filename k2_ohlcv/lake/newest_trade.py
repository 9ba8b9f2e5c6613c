"""Which trade is the newest: its market and id, read from the files whose bounds say that it is in them.

The moment alone, from metadata, is `lines.newest_trade`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import structlog
from pyiceberg.expressions import GreaterThanOrEqual
from pyiceberg.table import Table
from pyiceberg.types import LongType, TimestamptzType

from k2_ohlcv.domain.window import from_micros, to_micros
from k2_ohlcv.lake.files import TIME, LiveFile, live_files
from k2_ohlcv.lake.foreign import EVERYTHING, ForeignTrades, TimeColumn, time_column

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
    def text(self) -> str:
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
    snapshot = trades.metadata.current_snapshot_id
    found = live_files(trades, snapshot)
    files = [f for f in found if not f.is_delete and f.span != EVERYTHING]
    if not files:
        return None
    newest = max(files, key=lambda f: f.span.last)
    try:
        row = max(_rows(trades, newest), key=lambda r: r[TIME], default=None)
    except (ValueError, NotImplementedError) as error:
        # Such as delete files that PyIceberg does not read: what set the clock is still worth saying.
        _log.warning("the newest trade cannot be read", path=newest.path, error=str(error))
        row = None
    return NewestTrade(newest.span.last) if row is None else NewestTrade(row[TIME], *_texts(row))


def _texts(row: Mapping[str, Any]) -> list[str | None]:
    return [None if row.get(name) is None else str(row[name]) for name in _MARKET]


def _rows(trades: Table, newest: LiveFile) -> Iterator[dict[str, Any]]:
    """The newest row of each batch of what may be the newest rows, under our names."""
    time = time_column(trades, TIME)
    theirs = {name: theirs for name in (TIME, *_MARKET) if (theirs := _name(trades, name))}
    bounds = time.bounds(newest.file)
    least = bounds[1] if bounds else _value(time, newest.span.start)
    scan = trades.scan(
        GreaterThanOrEqual(term=time.field.name, value=_literal(time, least)),  # type: ignore[arg-type]
        selected_fields=tuple(theirs.values()),
        snapshot_id=trades.metadata.current_snapshot_id,
    )
    for batch in scan.to_arrow_batch_reader():
        rows = pl.DataFrame(batch)
        if rows.height:
            moments = time.micros(rows[time.field.name])
            row = rows.row(moments.arg_max() or 0, named=True)
            moment = from_micros(int(moments.max() or 0))  # type: ignore[arg-type] # micros are ints
            yield {**{name: row[column] for name, column in theirs.items()}, TIME: moment}


def _name(trades: Table, column: str) -> str | None:
    if isinstance(trades, ForeignTrades):
        field = trades.field(column)
        return field.name if field else None
    return column


def _value(time: TimeColumn, moment: datetime) -> int:
    return to_micros(moment) // time.clock.micros(1)


def _literal(time: TimeColumn, value: int) -> int | str:
    if isinstance(time.field.field_type, LongType):
        return value
    moment = from_micros(value)
    zoned = isinstance(time.field.field_type, TimestamptzType)
    return (moment if zoned else moment.astimezone(UTC).replace(tzinfo=None)).isoformat()
