"""The columns of a trades table that are read, by field id and by name in a snapshot's schema.

A field id names one column forever, while a name may be reused for another column. The functions work for
the project's own table and for external tables. The conversion of values is in `engine.external_values`.
"""

from dataclasses import fields

from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import NestedField

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.lake.external_trades import ExternalTrades, find_time_column
from k2_ohlcv.lake.external_verification import find_ambiguous_columns

#: The project's names of the columns that candles are computed from, in this order.
TRADE_COLUMNS = tuple(column.name for column in fields(Trade))


def read_field_ids(trades: Table) -> dict[str, int]:
    """The field id of each column that candles are computed from, by the project's column name.

    `trade_id` is left out where an external table has no such column.
    """
    if isinstance(trades, ExternalTrades):
        return {name: trades.columns[name] for name in TRADE_COLUMNS if name in trades.columns}
    return {name: trades.schema().find_field(name).field_id for name in TRADE_COLUMNS}


def trades_time_unit(trades: Table) -> str:
    """The unit of the time column of a trades table: `zoned`, `local`, `micros` or `millis`."""
    return find_time_column(trades, "timestamp").time_unit.name.lower()


def snapshot_schema(trades: Table, snapshot_id: int) -> Schema:
    """The schema by which an engine reads a snapshot: the snapshot's, else the table's current schema."""
    snapshot = trades.metadata.snapshot_by_id(snapshot_id)
    number = snapshot.schema_id if snapshot else None
    return trades.schema() if number is None else trades.schemas().get(number, trades.schema())


def snapshot_columns(trades: Table, snapshot_id: int) -> dict[str, NestedField]:
    """The columns of a snapshot that are read, found by field id, by the project's column name.

    A column may have another name at the snapshot than now.

    Raises:
        TableSpecError: the snapshot lacks a column, or another column's name differs only in case.
    """
    schema, table = snapshot_schema(trades, snapshot_id), ".".join(trades.name())
    fields_by_id = {field.field_id: field for field in schema.fields}
    ids = read_field_ids(trades)
    if missing := [name for name, number in ids.items() if number not in fields_by_id]:
        names = ", ".join(f"{trades.schema().find_field(ids[name]).name} (for {name})" for name in missing)
        raise TableSpecError(
            f"table {table} has no values yet in the column {names}: the column was added after snapshot "
            f"{snapshot_id} and is null in all its rows. Nothing was computed. Wait for the owner's next "
            "commit with values, or set K2_TRADES_COLUMNS to columns that have values"
        )
    columns = {name: fields_by_id[number] for name, number in ids.items()}
    if ambiguous := find_ambiguous_columns(schema, columns.values()):
        raise TableSpecError(f"table {table} at snapshot {snapshot_id} cannot be read: {ambiguous}")
    return columns
