"""Which columns of a trades table are read: by field id, under the names of a snapshot's own schema.

A field id names one column for ever; a name may be given to another column. Our own tables and external
tables answer alike. How values become ours is in `engine.external_values`.
"""

from dataclasses import fields

from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import NestedField

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.lake.external_trades import ExternalTrades, find_ambiguous_columns, find_time_column

#: Our names of the columns that candles are made of, in this order.
TRADE_COLUMNS = tuple(column.name for column in fields(Trade))


def read_field_ids(trades: Table) -> dict[str, int]:
    """The field id of each column that candles are made of, under our names.

    An external table may have no trade id; the name is missing then.
    """
    if isinstance(trades, ExternalTrades):
        return {name: trades.columns[name] for name in TRADE_COLUMNS if name in trades.columns}
    return {name: trades.schema().find_field(name).field_id for name in TRADE_COLUMNS}


def trades_time_unit(trades: Table) -> str:
    """How the time column of a trades table counts: `zoned`, `local`, `micros` or `millis`."""
    return find_time_column(trades, "timestamp").time_unit.name.lower()


def snapshot_schema(trades: Table, snapshot_id: int) -> Schema:
    """The schema that an engine reads a snapshot with: its own, or the current one where it names none."""
    snapshot = trades.metadata.snapshot_by_id(snapshot_id)
    number = snapshot.schema_id if snapshot else None
    return trades.schema() if number is None else trades.schemas().get(number, trades.schema())


def snapshot_columns(trades: Table, snapshot_id: int) -> dict[str, NestedField]:
    """The columns of a snapshot that have the field ids which are read, under our names.

    They may have had other names then, and their names may be those of other columns now.

    Raises:
        ContractError: a column did not exist then, or its name is not the only one of that spelling.
    """
    schema, table = snapshot_schema(trades, snapshot_id), ".".join(trades.name())
    there = {field.field_id: field for field in schema.fields}
    ids = read_field_ids(trades)
    if missing := [name for name, number in ids.items() if number not in there]:
        now = ", ".join(f"{trades.schema().find_field(ids[name]).name} (for {name})" for name in missing)
        raise TableSpecError(
            f"table {table} has no values yet in the column {now}: it came after snapshot {snapshot_id}, and "
            "in every row of that it is null. Nothing was computed. Wait for the owner's next commit with "
            "values, or set K2_TRADES_COLUMNS to the columns that have them"
        )
    found = {name: there[number] for name, number in ids.items()}
    if unclear := find_ambiguous_columns(schema, found.values()):
        raise TableSpecError(f"table {table} at snapshot {snapshot_id} cannot be read: {unclear}")
    return found
