"""Someone else's trades table: which of its columns are ours, how its time counts, and whether it will do.

It is read and never written. How its values become ours is in `engine.external_values`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache

import polars as pl
import structlog
from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile, DataFileContent, ManifestContent
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

from k2_ohlcv.domain.errors import ContractError, UsageError
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.window import EPOCH, MICROSECOND, Interval, from_micros, to_micros
from k2_ohlcv.settings import Settings

#: What a file holds of which nothing is known. No market is older, and no trade of ours will be newer.
EVERYTHING = Interval(EPOCH, datetime(2100, 1, 1, tzinfo=UTC))

#: Where moments are counted at all: values beyond become its ends. All arithmetic on windows and partitions
#: stays far from the ends of what a datetime can say.
_COUNTED = (
    to_micros(datetime(1900, 1, 1, tzinfo=UTC)),
    to_micros(datetime(2200, 1, 1, tzinfo=UTC)),
)

#: What each column may be, and how that is said.
_KINDS: Mapping[str, tuple[tuple[type[IcebergType], ...], str]] = {
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
class Source:
    """Whose trades table to read, as the settings say.

    Attributes:
        identifier: its namespace and name in the catalog.
        columns: our names of columns, and theirs.
        kept: how long they keep trades, behind the newest one; None is for ever.
    """

    identifier: tuple[str, ...]
    columns: tuple[tuple[str, str], ...] = ()
    kept: timedelta | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Source | None":
        """The table that the settings name; None for our own."""
        if settings.trades_table is None:
            return None
        return cls(settings.trades_table, settings.trades_columns, settings.trades_kept)

    @property
    def name(self) -> str:
        """The table's name in the catalog."""
        return ".".join(self.identifier)


class Clock(Enum):
    """How a time column counts. The unit of a long is told by the magnitude of what its files hold."""

    ZONED = "timestamps with zone"
    LOCAL = "timestamps without zone, read as UTC"
    MICROS = "microseconds"
    MILLIS = "milliseconds"

    def micros(self, value: int) -> int:
        """Microseconds since the epoch, from a value of the column."""
        return value * 1000 if self is Clock.MILLIS else value

    @property
    def magnitudes(self) -> range | None:
        """The values that a long may have: the years 1973 to 5138. None where the column is no long."""
        return _MAGNITUDES.get(self)


#: The years 2009 to 2100, in which trades are: what tells the unit of a long.
_LIKELY = {
    Clock.MILLIS: range(1_230_768_000_000, 4_102_444_800_000),
    Clock.MICROS: range(1_230_768_000_000_000, 4_102_444_800_000_000),
}
_MAGNITUDES = {Clock.MILLIS: range(10**11, 10**14), Clock.MICROS: range(10**14, 10**17)}


@dataclass(frozen=True)
class TimeColumn:
    """The column of a table that holds the moments, and how it counts."""

    field: NestedField
    clock: Clock

    def moment(self, value: int) -> datetime:
        """The moment of a value of the column, if it lies in 1900 to 2200; else the nearest end of that."""
        least, greatest = _COUNTED
        return from_micros(min(max(self.clock.micros(value), least), greatest))

    def span(self, first: int, last: int) -> Interval:
        """From the moment of one value up to and including that of another."""
        return Interval(self.moment(first), self.moment(last) + MICROSECOND)

    def micros(self, values: pl.Series) -> pl.Series:
        """Microseconds since the epoch, from values as they were read; null where they do not count so."""
        if values.dtype.is_temporal():
            return values.dt.epoch("us")
        known = self.clock.magnitudes or range(0)
        counted = values.set(~values.is_between(known.start, known.stop - 1), None)
        return counted * self.clock.micros(1)

    def bounds(self, file: DataFile) -> tuple[int, int] | None:
        """The least and the greatest value in a data file, where its metadata says them."""
        number = self.field.field_id
        lower, upper = (file.lower_bounds or {}).get(number), (file.upper_bounds or {}).get(number)
        if file.content != DataFileContent.DATA or lower is None or upper is None:
            return None
        kind = LongType()  # timestamps have the same bytes
        return int(from_bytes(kind, lower)), int(from_bytes(kind, upper))


def time_column(table: Table, column: str) -> TimeColumn:
    """The column that has the moments which we call `column`, whoever's table it is."""
    if isinstance(table, ForeignTrades) and (theirs := table.field(column)):
        return TimeColumn(theirs, table.clock)
    return TimeColumn(table.schema().find_field(column), Clock.ZONED)


class ForeignTrades(Table):
    """Someone else's trades table, verified, with its columns under our names. Commits to it are refused.

    Attributes:
        columns: for each of our columns, the id of theirs; trade_id may be missing.
        clock: how its time counts.
        kept: how long its owner keeps trades, behind the newest one; None is for ever.
    """

    def __init__(
        self, table: Table, columns: Mapping[str, int], clock: Clock, kept: timedelta | None = None
    ) -> None:
        super().__init__(
            table.name(), table.metadata, table.metadata_location, table.io, table.catalog, table.config
        )
        self.columns = columns
        self.clock = clock
        self.kept = kept

    def field(self, column: str) -> NestedField | None:
        """Their column of what we call so; None where they have none."""
        number = self.columns.get(column)
        return None if number is None else self.schema().find_field(number)

    def span(self, file: DataFile) -> Interval:
        """Where a file's rows may lie: its bounds, else its partition if that is by time, else anywhere."""
        time = time_column(self, "timestamp")
        bounds = time.bounds(file)
        if bounds is None:
            return _partition_span(time, self.specs()[file.spec_id], file.partition)
        return time.span(*bounds)

    def _do_commit(self, *_: object, **__: object) -> None:
        raise never_written(self.name())


def never_written(identifier: tuple[str, ...]) -> UsageError:
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
    return min(spans, key=lambda span: span.end - span.start, default=EVERYTHING)


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
            hours = replace(time, clock=Clock.MICROS)  # the transform counts hours of any kind of time
            span = hours.span(value * _HOUR_MICROS, (value + 1) * _HOUR_MICROS - 1)
        case IdentityTransform():
            span = time.span(value, value)
        case TruncateTransform():
            end = time.moment(value + transform.width)
            span = Interval(time.moment(value), max(end, time.moment(value) + MICROSECOND))
    return span


def verified(table: Table, source: Source) -> ForeignTrades:
    """Hold a foreign table to what can be read as trades.

    Raises:
        ContractError: columns are missing or of other types; the message names all of them, and what to set.
    """
    mapped = dict(source.columns)
    theirs = {field.name: field for field in table.schema().fields}
    found, faults = {}, []
    for ours, (kinds, said) in _KINDS.items():
        name = mapped.get(ours, ours)
        field = theirs.get(name)
        if field is None:
            if ours != "trade_id" or mapped.get(ours):
                faults.append(f"there is no column {name} for {ours}: set {ours}=<the column's name>")
        elif not isinstance(field.field_type, kinds):
            faults.append(f"column {name} for {ours} is {field.field_type}, and must be {said}")
        else:
            found[ours] = field
    if unclear := ambiguous(table.schema(), found.values()):
        faults.append(unclear)
    if faults:
        raise ContractError(
            f"table {source.name} (K2_TRADES_TABLE) cannot be read as trades: {'; '.join(faults)}. "
            f"Its columns are {', '.join(theirs)}; K2_TRADES_COLUMNS names those that are called otherwise "
            "than ours, as in timestamp=event_time,trade_id=seq"
        )
    doubles = [f.name for f in found.values() if isinstance(f.field_type, DoubleType)]
    if doubles:
        _say_doubles(source.name, ", ".join(doubles))
    columns = {ours: field.field_id for ours, field in found.items()}
    return ForeignTrades(table, columns, _clock(table, found["timestamp"], source.name), source.kept)


def ambiguous(schema: Schema, columns: Iterable[NestedField]) -> str:
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
def _say_doubles(table: str, columns: str) -> None:
    """Said once a process, however often the table is loaded."""
    _log.info(
        "doubles are read as decimals",
        table=table,
        columns=columns,
        how="the shortest text of each, exactly; what does not fit fails",
    )


def _clock(table: Table, field: NestedField, name: str) -> Clock:
    if not isinstance(field.field_type, LongType):
        return Clock.ZONED if isinstance(field.field_type, TimestamptzType) else Clock.LOCAL
    empty, time, strange = True, TimeColumn(field, Clock.MICROS), ""
    told: Clock | None = None
    for file in _data_files(table):
        empty = False
        if (bounds := time.bounds(file)) is None:
            continue
        # One stray row must not change the unit of all: a file whose bounds are likely times decides, the
        # oldest first, and only where there is none the magnitude of what the files hold.
        likely = {clock for clock, values in _LIKELY.items() for value in bounds if value in values}
        if len(likely) == 1:
            return likely.pop()
        told = told or next((c for c, values in _MAGNITUDES.items() if bounds[1] in values), None)
        strange = strange or f"{bounds[1]} in {file.file_path}"
    if told:
        return told
    if strange:
        raise ContractError(
            f"column {field.name} of {name} (K2_TRADES_TABLE) has {strange}: "
            "a long must count milliseconds or microseconds since 1970"
        )
    if not empty:
        raise ContractError(
            f"no data file of {name} (K2_TRADES_TABLE) has bounds of column {field.name}, which tell whether "
            f"it counts milliseconds or microseconds. Set write.metadata.metrics.column.{field.name}=full on "
            "the table, and rewrite a file"
        )
    return Clock.MICROS


def _data_files(table: Table) -> Iterator[DataFile]:
    """The live data files, those of the oldest manifests first: writers put new ones in front."""
    snapshot = table.current_snapshot()
    for manifest in reversed(snapshot.manifests(table.io)) if snapshot else []:
        if manifest.content == ManifestContent.DATA:
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                yield entry.data_file
