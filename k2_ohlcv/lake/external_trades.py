"""Someone else's trades table: which of its columns are ours, how its time counts, and whether it will do.

It is read and never written. How its values become ours is in `engine.external_values`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache

import structlog
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import (
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    TruncateTransform,
    YearTransform,
)
from pyiceberg.typedef import Record
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

from k2_ohlcv.domain.errors import TableSpecError, UsageError
from k2_ohlcv.domain.intervals import MICROSECOND, Interval
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.time_column import ALL_TIME, LIKELY_VALUES, VALUE_RANGES, TimeColumn, TimeUnit
from k2_ohlcv.settings import Settings

#: What each column may be, and how that is said.
_ACCEPTED_TYPES: Mapping[str, tuple[tuple[type[IcebergType], ...], str]] = {
    "exchange": ((StringType,), "a string"),
    "symbol": ((StringType,), "a string"),
    "trade_id": ((StringType, IntegerType, LongType), "a string, an int or a long"),
    "timestamp": ((TimestamptzType, TimestampType, LongType), "a timestamp with or without zone, or a long"),
    "price": ((DecimalType, DoubleType), "a decimal or a double"),
    "quantity": ((DecimalType, DoubleType), "a decimal or a double"),
}
_HOUR_MICROS = 3_600_000_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ExternalTradesConfig:
    """Whose trades table to read, as the settings say.

    Attributes:
        identifier: its namespace and name in the catalog.
        columns: our names of columns, and theirs.
        retention: how long they keep trades, behind the newest one; None is for ever.
    """

    identifier: tuple[str, ...]
    columns: tuple[tuple[str, str], ...] = ()
    retention: timedelta | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "ExternalTradesConfig | None":
        """The table that the settings name; None for our own."""
        if settings.trades_table is None:
            return None
        return cls(settings.trades_table, settings.trades_columns, settings.external_retention)

    @property
    def name(self) -> str:
        """The table's name in the catalog."""
        return ".".join(self.identifier)


def find_time_column(table: Table, column: str) -> TimeColumn:
    """The column that has the moments which we call `column_of`, whoever's table it is."""
    if isinstance(table, ExternalTrades) and (theirs := table.field(column)):
        return TimeColumn(theirs, table.time_unit)
    return TimeColumn(table.schema().find_field(column), TimeUnit.ZONED)


class ExternalTrades(Table):
    """Someone else's trades table, verified, with its columns under our names. Commits to it are refused.

    Attributes:
        columns: for each of our columns, the id of theirs; trade_id may be missing.
        clock: how its time counts.
        kept: how long its owner keeps trades, behind the newest one; None is for ever.
    """

    def __init__(
        self, table: Table, columns: Mapping[str, int], clock: TimeUnit, kept: timedelta | None = None
    ) -> None:
        super().__init__(
            table.name(), table.metadata, table.metadata_location, table.io, table.catalog, table.config
        )
        self.columns = columns
        self.time_unit = clock
        self.retention = kept

    def field(self, column: str) -> NestedField | None:
        """Their column of what we call so; None where they have none."""
        number = self.columns.get(column)
        return None if number is None else self.schema().find_field(number)

    def span(self, file: DataFile) -> Interval:
        """Where a file's rows may lie: its bounds, else its partition if that is by time, else anywhere."""
        time = find_time_column(self, "timestamp")
        bounds = time.file_bounds(file)
        if bounds is None:
            return _partition_span(time, self.specs()[file.spec_id], file.partition)
        return time.span(*bounds)

    def _do_commit(self, *_: object, **__: object) -> None:
        raise read_only_error(self.name())


def read_only_error(identifier: tuple[str, ...]) -> UsageError:
    """The error of whoever would write to a table that is not ours."""
    return UsageError(
        f"trades are read from {'.'.join(identifier)} (K2_TRADES_TABLE), which is someone else's table and "
        "never written to. Unset K2_TRADES_TABLE to ingest into our own"
    )


def _partition_span(time: TimeColumn, spec: PartitionSpec, partition: Record) -> Interval:
    spans = [
        span
        for position, field in enumerate(spec.fields)
        if field.source_id == time.field.field_id
        and (span := _transformed_span(time, field.transform, partition[position]))
    ]
    return min(spans, key=lambda span: span.end - span.start, default=ALL_TIME)


def _transformed_span(time: TimeColumn, transform: object, value: int | None) -> Interval | None:
    span: Interval | None = None
    match transform:
        case _ if value is None:
            pass
        case DayTransform():
            span = Grain.DAY.interval_of(value)
        case MonthTransform():
            span = Grain.MONTH.interval_of(value)
        case YearTransform():
            first, last = Grain.MONTH.interval_of(12 * value), Grain.MONTH.interval_of(12 * value + 11)
            span = Interval(first.start, last.end)
        case HourTransform():
            hours = replace(time, time_unit=TimeUnit.MICROS)  # the transform counts hours of any kind of time
            span = hours.span(value * _HOUR_MICROS, (value + 1) * _HOUR_MICROS - 1)
        case IdentityTransform():
            span = time.span(value, value)
        case TruncateTransform():
            end = time.moment(value + transform.width)
            span = Interval(time.moment(value), max(end, time.moment(value) + MICROSECOND))
    return span


def verify_external_trades(table: Table, source: ExternalTradesConfig) -> ExternalTrades:
    """Hold a foreign table to what can be read as trades.

    Raises:
        ContractError: columns are missing or of other types; the message names all of them, and what to set.
    """
    mapped = dict(source.columns)
    theirs = {field.name: field for field in table.schema().fields}
    found, faults = {}, []
    for ours, (kinds, said) in _ACCEPTED_TYPES.items():
        name = mapped.get(ours, ours)
        field = theirs.get(name)
        if field is None:
            if ours != "trade_id" or mapped.get(ours):
                faults.append(f"there is no column {name} for {ours}: set {ours}=<the column's name>")
        elif not isinstance(field.field_type, kinds):
            faults.append(f"column {name} for {ours} is {field.field_type}, and must be {said}")
        else:
            found[ours] = field
    if unclear := find_ambiguous_columns(table.schema(), found.values()):
        faults.append(unclear)
    if faults:
        raise TableSpecError(
            f"table {source.name} (K2_TRADES_TABLE) cannot be read as trades: {'; '.join(faults)}. "
            f"Its columns are {', '.join(theirs)}; K2_TRADES_COLUMNS names those that are called otherwise "
            "than ours, as in timestamp=event_time,trade_id=seq"
        )
    doubles = [f.name for f in found.values() if isinstance(f.field_type, DoubleType)]
    if doubles:
        _warn_about_doubles(source.name, ", ".join(doubles))
    columns = {ours: field.field_id for ours, field in found.items()}
    return ExternalTrades(
        table, columns, _find_time_unit(table, found["timestamp"], source.name), source.retention
    )


def find_ambiguous_columns(schema: Schema, columns: Iterable[NestedField]) -> str:
    """Which columns share their names, but for case, with other ones: engines cannot tell them apart."""
    spelt: dict[str, list[str]] = {}
    for field in schema.fields:
        spelt.setdefault(field.name.lower(), []).append(field.name)
    wanted = dict.fromkeys(field.name.lower() for field in columns)
    pairs = [" and ".join(spelt[name]) for name in wanted if len(spelt[name]) > 1]
    if not pairs:
        return ""
    return (
        f"columns {', '.join(pairs)} differ only in case, and engines take them for one. Rename or drop one"
    )


@lru_cache
def _warn_about_doubles(table: str, columns: str) -> None:
    """Said once a process, however often the table is loaded."""
    _log.info(
        "doubles are read as decimals",
        table=table,
        columns=columns,
        how="the shortest text of each, exactly; what does not fit fails",
    )


def _find_time_unit(table: Table, field: NestedField, name: str) -> TimeUnit:
    if not isinstance(field.field_type, LongType):
        return TimeUnit.ZONED if isinstance(field.field_type, TimestamptzType) else TimeUnit.LOCAL
    empty, time, strange = True, TimeColumn(field, TimeUnit.MICROS), ""
    told: TimeUnit | None = None
    for file in _live_data_files(table):
        empty = False
        if (bounds := time.file_bounds(file)) is None:
            continue
        # One stray row must not change the unit of all: a file whose bounds are likely times decides, the
        # oldest first, and only where there is none the magnitude of what the files hold.
        likely = {clock for clock, values in LIKELY_VALUES.items() for value in bounds if value in values}
        if len(likely) == 1:
            return likely.pop()
        told = told or next((c for c, values in VALUE_RANGES.items() if bounds[1] in values), None)
        strange = strange or f"{bounds[1]} in {file.file_path}"
    if told:
        return told
    if strange:
        raise TableSpecError(
            f"column {field.name} of {name} (K2_TRADES_TABLE) has {strange}: "
            "a long must count milliseconds or microseconds since 1970"
        )
    if not empty:
        raise TableSpecError(
            f"no data file of {name} (K2_TRADES_TABLE) has bounds of column {field.name}, which tell whether "
            f"it counts milliseconds or microseconds. Set write.metadata.metrics.column.{field.name}=full on "
            "the table, and rewrite a file"
        )
    return TimeUnit.MICROS


def _live_data_files(table: Table) -> Iterator[DataFile]:
    """The live data files, those of the oldest manifests first: writers put new ones in front."""
    snapshot = table.current_snapshot()
    for manifest in reversed(snapshot.manifests(table.io)) if snapshot else []:
        if manifest.content == ManifestContent.DATA:
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                yield entry.data_file
