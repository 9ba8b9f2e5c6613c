"""The time column of a table: its time unit, and the time spans of files from the column's bounds.

The search for a table's time column is in `external_trades`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import polars as pl
from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.types import (
    LongType,
    NestedField,
)

from k2_ohlcv.domain.intervals import EPOCH, MICROSECOND, Interval, from_micros, to_micros

#: The span of a file without bounds or time partition. No market is older, and no trade is newer.
ALL_TIME = Interval(EPOCH, datetime(2100, 1, 1, tzinfo=UTC))

#: The least and greatest moment. Values outside are clipped, so that arithmetic on windows and partitions
#: never leaves the range of a datetime.
_TIME_LIMITS = (
    to_micros(datetime(1900, 1, 1, tzinfo=UTC)),
    to_micros(datetime(2200, 1, 1, tzinfo=UTC)),
)


class TimeUnit(Enum):
    """The unit of a time column. The unit of a long is inferred from the magnitude of its values."""

    ZONED = "timestamps with zone"
    LOCAL = "timestamps without zone, read as UTC"
    MICROS = "microseconds"
    MILLIS = "milliseconds"

    def micros(self, value: int) -> int:
        """Convert a value of the column to microseconds since the epoch."""
        return value * 1000 if self is TimeUnit.MILLIS else value

    @property
    def value_range(self) -> range | None:
        """The values that a long may have: the years 1973 to 5138. None where the column is not a long."""
        return VALUE_RANGES.get(self)


#: The values of the years 2009 to 2100, the time of all trades. The two ranges tell the unit of a long.
LIKELY_VALUES = {
    TimeUnit.MILLIS: range(1_230_768_000_000, 4_102_444_800_000),
    TimeUnit.MICROS: range(1_230_768_000_000_000, 4_102_444_800_000_000),
}
#: The values that a long may have: the years 1973 to 5138.
VALUE_RANGES = {TimeUnit.MILLIS: range(10**11, 10**14), TimeUnit.MICROS: range(10**14, 10**17)}


@dataclass(frozen=True)
class TimeColumn:
    """The time column of a table and its unit."""

    field: NestedField
    time_unit: TimeUnit

    def moment(self, value: int) -> datetime:
        """Convert a value of the column to a moment, clipped to the years 1900 to 2200."""
        least, greatest = _TIME_LIMITS
        return from_micros(min(max(self.time_unit.micros(value), least), greatest))

    def span(self, first: int, last: int) -> Interval:
        """The span of two values of the column, both included."""
        return Interval(self.moment(first), self.moment(last) + MICROSECOND)

    def micros(self, values: pl.Series) -> pl.Series:
        """Convert values to microseconds since the epoch. A long outside the unit's range becomes null."""
        if values.dtype.is_temporal():
            return values.dt.epoch("us")
        valid = self.time_unit.value_range or range(0)
        checked = values.set(~values.is_between(valid.start, valid.stop - 1), None)
        return checked * self.time_unit.micros(1)

    def file_bounds(self, file: DataFile) -> tuple[int, int] | None:
        """The least and greatest value in a data file; None where its metadata has no bounds."""
        number = self.field.field_id
        lower, upper = (file.lower_bounds or {}).get(number), (file.upper_bounds or {}).get(number)
        if file.content != DataFileContent.DATA or lower is None or upper is None:
            return None
        long = LongType()  # timestamps have the same bytes
        return int(from_bytes(long, lower)), int(from_bytes(long, upper))
