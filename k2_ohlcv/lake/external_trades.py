"""The external trades table: its configuration, its columns by the project's names, and its time spans.

The table belongs to another owner. The project reads the table and never writes to it. Verification is in
`external_verification`, the conversion of values in `engine.external_values`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionSpec
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
from pyiceberg.types import NestedField

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import MICROSECOND, Interval
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.time_column import ALL_TIME, TimeColumn, TimeUnit
from k2_ohlcv.settings import Settings

_HOUR_MICROS = 3_600_000_000


@dataclass(frozen=True)
class ExternalTradesConfig:
    """The external trades table that the settings name.

    Attributes:
        identifier: the namespace and name of the table in the catalog.
        columns: pairs of the project's column name and the table's column name.
        retention: how long the owner keeps trades, measured from the newest one; None means forever.
    """

    identifier: tuple[str, ...]
    columns: tuple[tuple[str, str], ...] = ()
    retention: timedelta | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "ExternalTradesConfig | None":
        """The external table of the settings; None where the project's own table is read."""
        if settings.trades_table is None:
            return None
        return cls(settings.trades_table, settings.trades_columns, settings.external_retention)

    @property
    def name(self) -> str:
        """The table's name in the catalog."""
        return ".".join(self.identifier)


def find_time_column(table: Table, column: str) -> TimeColumn:
    """The time column of a table, by the project's column name. The table may be an external table."""
    if isinstance(table, ExternalTrades) and (field := table.field(column)):
        return TimeColumn(field, table.time_unit)
    return TimeColumn(table.schema().find_field(column), TimeUnit.ZONED)


class ExternalTrades(Table):
    """A verified external trades table, with its columns by the project's names. Commits are refused.

    Attributes:
        columns: the table's field id by the project's column name; `trade_id` may be missing.
        time_unit: the unit of the time column.
        retention: how long the owner keeps trades, measured from the newest one; None means forever.
    """

    def __init__(
        self,
        table: Table,
        columns: Mapping[str, int],
        time_unit: TimeUnit,
        retention: timedelta | None = None,
    ) -> None:
        super().__init__(
            table.name(), table.metadata, table.metadata_location, table.io, table.catalog, table.config
        )
        self.columns = columns
        self.time_unit = time_unit
        self.retention = retention

    def field(self, column: str) -> NestedField | None:
        """The table's column by the project's column name; None where the table has no such column."""
        number = self.columns.get(column)
        return None if number is None else self.schema().find_field(number)

    def span(self, file: DataFile) -> Interval:
        """The time span of a file's rows: from its bounds, else from a time partition, else `ALL_TIME`."""
        time = find_time_column(self, "timestamp")
        bounds = time.file_bounds(file)
        if bounds is None:
            return _partition_span(time, self.specs()[file.spec_id], file.partition)
        return time.span(*bounds)

    def _do_commit(self, *_: object, **__: object) -> None:
        raise read_only_error(self.name())


def read_only_error(identifier: tuple[str, ...]) -> UsageError:
    """The error for a write to an external trades table."""
    return UsageError(
        f"trades are read from {'.'.join(identifier)} (K2_TRADES_TABLE), which is an external table and is "
        "never written to. Unset K2_TRADES_TABLE to ingest into the project's own trades table"
    )


def _partition_span(time: TimeColumn, spec: PartitionSpec, partition: Record) -> Interval:
    spans = [
        span
        for position, field in enumerate(spec.fields)
        if field.source_id == time.field.field_id
        and (span := transformed_span(time, field.transform, partition[position]))
    ]
    return min(spans, key=lambda span: span.end - span.start, default=ALL_TIME)


def transformed_span(time: TimeColumn, transform: object, value: int | None) -> Interval | None:
    """The time span of a partition value; None where the transform or the value gives none."""
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
            micros = replace(time, time_unit=TimeUnit.MICROS)  # the transform counts hours for any unit
            span = micros.span(value * _HOUR_MICROS, (value + 1) * _HOUR_MICROS - 1)
        case IdentityTransform():
            span = time.span(value, value)
        case TruncateTransform():
            end = time.moment(value + transform.width)
            span = Interval(time.moment(value), max(end, time.moment(value) + MICROSECOND))
    return span
