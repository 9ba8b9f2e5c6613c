"""The column of a table that holds its moments: how it counts, and the spans that files cover.

Which column that is, is found in `external_trades`.
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

#: What a file holds of which nothing is known. No market is older, and no trade of ours will be newer.
ALL_TIME = Interval(EPOCH, datetime(2100, 1, 1, tzinfo=UTC))

#: Where moments are counted at all: values beyond become its ends. All arithmetic on windows and partitions
#: stays far from the ends of what a datetime can say.
_TIME_LIMITS = (
    to_micros(datetime(1900, 1, 1, tzinfo=UTC)),
    to_micros(datetime(2200, 1, 1, tzinfo=UTC)),
)


class TimeUnit(Enum):
    """How a time column counts. The unit of a long is told by the magnitude of what its files hold."""

    ZONED = "timestamps with zone"
    LOCAL = "timestamps without zone, read as UTC"
    MICROS = "microseconds"
    MILLIS = "milliseconds"

    def micros(self, value: int) -> int:
        """Microseconds since the epoch, from a value of the column."""
        return value * 1000 if self is TimeUnit.MILLIS else value

    @property
    def value_range(self) -> range | None:
        """The values that a long may have: the years 1973 to 5138. None where the column is no long."""
        return VALUE_RANGES.get(self)


#: The years 2009 to 2100, in which trades are: what tells the unit of a long.
LIKELY_VALUES = {
    TimeUnit.MILLIS: range(1_230_768_000_000, 4_102_444_800_000),
    TimeUnit.MICROS: range(1_230_768_000_000_000, 4_102_444_800_000_000),
}
VALUE_RANGES = {TimeUnit.MILLIS: range(10**11, 10**14), TimeUnit.MICROS: range(10**14, 10**17)}


@dataclass(frozen=True)
class TimeColumn:
    """The column of a table that holds the moments, and how it counts."""

    field: NestedField
    time_unit: TimeUnit

    def moment(self, value: int) -> datetime:
        """The moment of a value of the column, if it lies in 1900 to 2200; else the nearest end of that."""
        least, greatest = _TIME_LIMITS
        return from_micros(min(max(self.time_unit.micros(value), least), greatest))

    def span(self, first: int, last: int) -> Interval:
        """From the moment of one value up to and including that of another."""
        return Interval(self.moment(first), self.moment(last) + MICROSECOND)

    def micros(self, values: pl.Series) -> pl.Series:
        """Microseconds since the epoch, from values as they were read; null where they do not count so."""
        if values.dtype.is_temporal():
            return values.dt.epoch("us")
        known = self.time_unit.value_range or range(0)
        counted = values.set(~values.is_between(known.start, known.stop - 1), None)
        return counted * self.time_unit.micros(1)

    def file_bounds(self, file: DataFile) -> tuple[int, int] | None:
        """The least and the greatest value in a data file, where its metadata says them."""
        number = self.field.field_id
        lower, upper = (file.lower_bounds or {}).get(number), (file.upper_bounds or {}).get(number)
        if file.content != DataFileContent.DATA or lower is None or upper is None:
            return None
        kind = LongType()  # timestamps have the same bytes
        return int(from_bytes(kind, lower)), int(from_bytes(kind, upper))
