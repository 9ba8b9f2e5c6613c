"""Which columns of a trades table are read: by field id, under the names of a snapshot's own schema.

A field id names one column for ever; a name may be given to another column. Our own tables and external
tables answer alike. How values become ours is in `engine.ticks`.
"""

from dataclasses import fields

from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.lake.foreign import ForeignTrades, time_column

#: Our names of the columns that candles are made of, in this order.
TRADE_COLUMNS = tuple(column.name for column in fields(Trade))


def field_ids_read(trades: Table) -> dict[str, int]:
    """The field id of each column that candles are made of, under our names.

    An external table may have no trade id; the name is missing then.
    """
    if isinstance(trades, ForeignTrades):
        return {name: trades.columns[name] for name in TRADE_COLUMNS if name in trades.columns}
    return {name: trades.schema().find_field(name).field_id for name in TRADE_COLUMNS}


def time_unit(trades: Table) -> str:
    """How the time column of a trades table counts: `zoned`, `local`, `micros` or `millis`."""
    return time_column(trades, "timestamp").clock.name.lower()
