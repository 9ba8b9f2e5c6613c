"""Columns and moments in Spark's SQL, for tables whose columns are called and typed as their owners like."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from pyiceberg.table import Table
from pyiceberg.types import NestedField

from k2_ohlcv.domain.window import to_micros
from k2_ohlcv.lake.foreign import Clock, ForeignTrades
from k2_ohlcv.lake.trade_columns import columns_at

if TYPE_CHECKING:
    from pyspark.sql import Column


def clock_of(trades: Table) -> Clock:
    """How the time column of a trades table counts."""
    return trades.clock if isinstance(trades, ForeignTrades) else Clock.ZONED


def time_terms(trades: Table, snapshot: int) -> tuple[str, Callable[[datetime], str]]:
    """The time column of a snapshot in SQL, and how moments are written to compare with it.

    Spark plans files by the current schema's column of that name. Where that is another one, or none, the
    column stands inside an expression: nothing is planned by it then, and all files are read.
    """
    field, clock = columns_at(trades, snapshot)["timestamp"], clock_of(trades)
    name = quoted(field)
    if any(now.name == field.name and now.field_id == field.field_id for now in trades.schema().fields):
        return name, _literal(clock)
    if clock in {Clock.ZONED, Clock.LOCAL}:
        name, clock = f"unix_micros(CAST({name} AS TIMESTAMP))", Clock.MICROS
    # Of a bare comparison Spark infers that the column is not null, and plans by that.
    return f"coalesce({name}, {-(2**63) + 1}L)", _literal(clock)


def _literal(clock: Clock) -> Callable[[datetime], str]:
    """Moments as SQL literals of a time column's own type."""
    match clock:
        case Clock.ZONED:
            return lambda moment: f"TIMESTAMP '{moment.isoformat(' ')}'"
        case Clock.LOCAL:
            return lambda moment: f"TIMESTAMP_NTZ '{moment.replace(tzinfo=None).isoformat(' ')}'"
        case Clock.MILLIS:
            return lambda moment: f"{-(-to_micros(moment) // 1000)}L"
        case Clock.MICROS:
            return lambda moment: f"{to_micros(moment)}L"


def quoted(field: NestedField) -> str:
    """The name of a column in SQL: any text will do as a name."""
    return f"`{field.name.replace('`', '``')}`"


def column(field: NestedField) -> "Column":
    """A column by its name."""
    from pyspark.sql import functions as F  # noqa: N812

    return F.col(quoted(field))
