"""Verifies that an external table can be read as trades, and infers the unit of its time column.

The verified table is `external_trades.ExternalTrades`. The spec of the project's own table is in `schemas`.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import structlog
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import (
    DecimalType,
    DoubleType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
)

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.lake.external_trades import ExternalTrades, ExternalTradesConfig
from k2_ohlcv.lake.time_column import LIKELY_VALUES, VALUE_RANGES, TimeColumn, TimeUnit

#: The accepted types of each column, and their description.
_ACCEPTED_TYPES: Mapping[str, tuple[tuple[type[IcebergType], ...], str]] = {
    "exchange": ((StringType,), "a string"),
    "symbol": ((StringType,), "a string"),
    "trade_id": ((StringType, IntegerType, LongType), "a string, an int or a long"),
    "timestamp": ((TimestamptzType, TimestampType, LongType), "a timestamp with or without zone, or a long"),
    "price": ((DecimalType, DoubleType), "a decimal or a double"),
    "quantity": ((DecimalType, DoubleType), "a decimal or a double"),
}

_log = structlog.get_logger(__name__)


def verify_external_trades(table: Table, source: ExternalTradesConfig) -> ExternalTrades:
    """Verify that an external table can be read as trades, and map its columns.

    Raises:
        TableSpecError: columns are missing or of other types; the message names them and the settings.
    """
    mapped_names = dict(source.columns)
    fields = {field.name: field for field in table.schema().fields}
    trade_fields, errors = {}, []
    for column, (types, description) in _ACCEPTED_TYPES.items():
        name = mapped_names.get(column, column)
        field = fields.get(name)
        if field is None:
            if column != "trade_id" or mapped_names.get(column):
                errors.append(f"there is no column {name} for {column}: set {column}=<the column's name>")
        elif not isinstance(field.field_type, types):
            errors.append(f"column {name} for {column} is {field.field_type}, and must be {description}")
        else:
            trade_fields[column] = field
    if ambiguous := find_ambiguous_columns(table.schema(), trade_fields.values()):
        errors.append(ambiguous)
    if errors:
        raise TableSpecError(
            f"table {source.name} (K2_TRADES_TABLE) cannot be read as trades: {'; '.join(errors)}. "
            f"Its columns are {', '.join(fields)}. Map columns of other names with K2_TRADES_COLUMNS, for "
            "example timestamp=event_time,trade_id=seq"
        )
    doubles = [f.name for f in trade_fields.values() if isinstance(f.field_type, DoubleType)]
    if doubles:
        _warn_about_doubles(source.name, ", ".join(doubles))
    time_unit = _find_time_unit(table, trade_fields["timestamp"], source.name)
    columns = {column: field.field_id for column, field in trade_fields.items()}
    return ExternalTrades(table, columns, time_unit, source.retention)


def find_ambiguous_columns(schema: Schema, columns: Iterable[NestedField]) -> str:
    """Describe the columns whose names differ only in case from other names. Engines confuse such columns.

    Returns:
        The description, or an empty text where no name is ambiguous.
    """
    spellings: dict[str, list[str]] = {}
    for field in schema.fields:
        spellings.setdefault(field.name.lower(), []).append(field.name)
    names = dict.fromkeys(field.name.lower() for field in columns)
    pairs = [" and ".join(spellings[name]) for name in names if len(spellings[name]) > 1]
    if not pairs:
        return ""
    return (
        f"columns {', '.join(pairs)} differ only in case, and engines confuse them. Rename or drop a column"
    )


@lru_cache
def _warn_about_doubles(table: str, columns: str) -> None:
    """Log once per process and table that doubles are converted."""
    _log.info(
        "doubles are read as decimals",
        table=table,
        columns=columns,
        how="exactly, by the shortest text of each double; a value that does not fit fails",
    )


def _find_time_unit(table: Table, field: NestedField, name: str) -> TimeUnit:
    """Infer the unit of the time column: from its type, or for a long from the bounds of the files."""
    if not isinstance(field.field_type, LongType):
        return TimeUnit.ZONED if isinstance(field.field_type, TimestamptzType) else TimeUnit.LOCAL
    has_files, time, sample = False, TimeColumn(field, TimeUnit.MICROS), ""
    possible: TimeUnit | None = None
    for file in _live_data_files(table):
        has_files = True
        if (bounds := time.file_bounds(file)) is None:
            continue
        # One wrong row must not change the unit. The oldest file with likely times therefore decides.
        # The magnitude of the values decides only where no file has likely times.
        likely = {unit for unit, values in LIKELY_VALUES.items() for value in bounds if value in values}
        if len(likely) == 1:
            return likely.pop()
        possible = possible or next((u for u, values in VALUE_RANGES.items() if bounds[1] in values), None)
        sample = sample or f"{bounds[1]} in {file.file_path}"
    if possible:
        return possible
    if sample:
        raise TableSpecError(
            f"column {field.name} of {name} (K2_TRADES_TABLE) has {sample}: "
            "a long must count milliseconds or microseconds since 1970"
        )
    if has_files:
        raise TableSpecError(
            f"no data file of {name} (K2_TRADES_TABLE) has bounds of column {field.name}. Bounds tell "
            "whether a long counts milliseconds or microseconds. Set "
            f"write.metadata.metrics.column.{field.name}=full on the table, and rewrite a file"
        )
    return TimeUnit.MICROS


def _live_data_files(table: Table) -> Iterator[DataFile]:
    """The live data files, oldest manifests first. Writers put new manifests first in the list."""
    snapshot = table.current_snapshot()
    for manifest in reversed(snapshot.manifests(table.io)) if snapshot else []:
        if manifest.content == ManifestContent.DATA:
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                yield entry.data_file
