"""Columns and moments in Spark's SQL, for tables whose columns are called and typed as their owners like."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from pyiceberg.table import Table
from pyiceberg.types import NestedField

from k2_ohlcv.domain.intervals import to_micros
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.time_column import TimeUnit
from k2_ohlcv.lake.trade_columns import snapshot_columns

if TYPE_CHECKING:
    from pyspark.sql import Column


def time_unit_of(trades: Table) -> TimeUnit:
    """How the time column of a trades table counts."""
    return trades.time_unit if isinstance(trades, ExternalTrades) else TimeUnit.ZONED


def time_sql(trades: Table, snapshot: int) -> tuple[str, Callable[[datetime], str]]:
    """The time column of a snapshot in SQL, and how moments are written to compare with it.

    Spark plans files by the current schema's column of that name. Where that is another one, or none, the
    column stands inside an expression: nothing is planned by it then, and all files are read.
    """
    field, clock = snapshot_columns(trades, snapshot)["timestamp"], time_unit_of(trades)
    name = quote_name(field)
    if any(now.name == field.name and now.field_id == field.field_id for now in trades.schema().fields):
        return name, _literal(clock)
    if clock in {TimeUnit.ZONED, TimeUnit.LOCAL}:
        name, clock = f"unix_micros(CAST({name} AS TIMESTAMP))", TimeUnit.MICROS
    # Of a bare comparison Spark infers that the column is not null, and plans by that.
    return f"coalesce({name}, {-(2**63) + 1}L)", _literal(clock)


def _literal(clock: TimeUnit) -> Callable[[datetime], str]:
    """Moments as SQL literals of a time column's own type."""
    match clock:
        case TimeUnit.ZONED:
            return lambda moment: f"TIMESTAMP '{moment.isoformat(' ')}'"
        case TimeUnit.LOCAL:
            return lambda moment: f"TIMESTAMP_NTZ '{moment.replace(tzinfo=None).isoformat(' ')}'"
        case TimeUnit.MILLIS:
            return lambda moment: f"{-(-to_micros(moment) // 1000)}L"
        case TimeUnit.MICROS:
            return lambda moment: f"{to_micros(moment)}L"


def quote_name(field: NestedField) -> str:
    """The name of a column in SQL: any text will do as a name."""
    return f"`{field.name.replace('`', '``')}`"


def column_of(field: NestedField) -> "Column":
    """A column by its name."""
    from pyspark.sql import functions as F  # noqa: N812

    return F.col(quote_name(field))
