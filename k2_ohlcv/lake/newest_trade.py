"""Finds the newest trade with its market and id. Reads only the files whose bounds include its time.

The time alone, from metadata, is in `history_bounds.newest_trade_time`.
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
from k2_ohlcv.lake.metadata.file_search import newest_data_file
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, LiveFile
from k2_ohlcv.lake.time_column import TimeColumn

_IDENTITY_COLUMNS = ("exchange", "symbol", "trade_id")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class NewestTrade:
    """The newest trade of a table. Market and id are None where the row cannot be read."""

    timestamp: datetime
    exchange: str | None = None
    symbol: str | None = None
    trade_id: str | None = None

    @property
    def as_text(self) -> str:
        """The trade as text."""
        if self.exchange is None or self.symbol is None:
            return f"a trade of {self.timestamp:%Y-%m-%d %H:%M:%S} UTC, whose row cannot be read"
        name = f"trade {self.trade_id}" if self.trade_id is not None else "the trade"
        return f"{name} of {self.exchange} {self.symbol} at {self.timestamp:%Y-%m-%d %H:%M:%S} UTC"

    def as_json(self) -> dict[str, object]:
        """The trade as one JSON object."""
        return {
            "exchange": self.exchange,
            "symbol": self.symbol,
            "trade_id": self.trade_id,
            "timestamp": self.timestamp.isoformat(),
        }


def find_newest_trade(trades: Table) -> NewestTrade | None:
    """Find the newest trade of the loaded table; None without trades, or where no file has time bounds."""
    newest = newest_data_file(trades, trades.metadata.current_snapshot_id)
    if newest is None or (latest := newest.latest) is None:
        return None
    try:
        row = max(_newest_rows(trades, newest, latest), key=lambda r: r[TRADE_TIME_COLUMN], default=None)
    except (ValueError, NotImplementedError) as error:
        # For example delete files that PyIceberg cannot read. The time of the trade is still known.
        _log.warning("the newest trade cannot be read", path=newest.path, error=str(error))
        row = None
    return NewestTrade(latest) if row is None else NewestTrade(row[TRADE_TIME_COLUMN], *_as_texts(row))


def _as_texts(row: Mapping[str, Any]) -> list[str | None]:
    return [None if row.get(name) is None else str(row[name]) for name in _IDENTITY_COLUMNS]


def _newest_rows(trades: Table, newest: LiveFile, latest: datetime) -> Iterator[dict[str, Any]]:
    """Yield the newest row of each batch of candidate rows, under the project's column names.

    A bound is the time of a row. The scan is limited to that time, because the file may also have rows of
    impossible times.
    """
    time = find_time_column(trades, TRADE_TIME_COLUMN)
    table_columns = {
        name: table_column
        for name in (TRADE_TIME_COLUMN, *_IDENTITY_COLUMNS)
        if (table_column := _column_name(trades, name))
    }
    span = Interval(latest, latest + MICROSECOND) if time.file_bounds(newest.file) else newest.span
    first, last = (_time_literal(time, _column_value(time, moment)) for moment in (span.start, span.last))
    column = Reference(time.field.name)
    # Without a snapshot id the scan uses the names of the current schema, as `table_columns` does.
    scan = trades.scan(
        And(
            GreaterThanOrEqual(term=column, value=literal(first)),
            LessThanOrEqual(term=column, value=literal(last)),
        ),
        selected_fields=tuple(table_columns.values()),
    )
    for batch in scan.to_arrow_batch_reader():
        rows = pl.DataFrame(batch)
        if rows.height:
            moments = time.micros(rows[time.field.name])
            row = rows.row(moments.arg_max() or 0, named=True)
            moment = from_micros(int(moments.max() or 0))  # type: ignore[arg-type] # micros are ints
            yield {**{name: row[column] for name, column in table_columns.items()}, TRADE_TIME_COLUMN: moment}


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
