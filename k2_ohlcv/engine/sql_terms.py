"""Writes columns and times in Spark SQL, for trades tables with any column names and types."""

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
    """The unit of the time column of a trades table."""
    return trades.time_unit if isinstance(trades, ExternalTrades) else TimeUnit.ZONED


def time_sql(trades: Table, snapshot: int) -> tuple[str, Callable[[datetime], str]]:
    """The time column of a snapshot in SQL, and a function that writes times to compare with it.

    Spark prunes files by the column of that name in the current schema. If the snapshot has another column of
    that name, the column is put inside an expression. Spark then prunes no files.
    """
    field, unit = snapshot_columns(trades, snapshot)["timestamp"], time_unit_of(trades)
    name = quote_name(field)
    if any(now.name == field.name and now.field_id == field.field_id for now in trades.schema().fields):
        return name, _literal(unit)
    if unit in {TimeUnit.ZONED, TimeUnit.LOCAL}:
        name, unit = f"unix_micros(CAST({name} AS TIMESTAMP))", TimeUnit.MICROS
    # From a plain comparison, Spark infers that the column is not null, and prunes files by that.
    return f"coalesce({name}, {-(2**63) + 1}L)", _literal(unit)


def _literal(unit: TimeUnit) -> Callable[[datetime], str]:
    """A function that writes times as SQL literals of the time column's type."""
    match unit:
        case TimeUnit.ZONED:
            return lambda moment: f"TIMESTAMP '{moment.isoformat(' ')}'"
        case TimeUnit.LOCAL:
            return lambda moment: f"TIMESTAMP_NTZ '{moment.replace(tzinfo=None).isoformat(' ')}'"
        case TimeUnit.MILLIS:
            return lambda moment: f"{-(-to_micros(moment) // 1000)}L"
        case TimeUnit.MICROS:
            return lambda moment: f"{to_micros(moment)}L"


def quote_name(field: NestedField) -> str:
    """Quote the name of a column in SQL. Any text is a valid name."""
    return f"`{field.name.replace('`', '``')}`"


def column_of(field: NestedField) -> "Column":
    """The Spark column of a field."""
    from pyspark.sql import functions as F  # noqa: N812

    return F.col(quote_name(field))
