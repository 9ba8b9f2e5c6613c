"""The forms of time columns that external trades tables may have."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pyiceberg.types import IcebergType, LongType, TimestampType, TimestamptzType

from k2_ohlcv.domain.intervals import to_micros

#: For each time unit: the Iceberg type, and the value that stores a time.
TIME_FORMS: dict[str, tuple[IcebergType, Callable[[datetime], Any]]] = {
    "zoned": (TimestamptzType(), lambda at: at),
    "local": (TimestampType(), lambda at: at.replace(tzinfo=None)),
    "micros": (LongType(), to_micros),
    "millis": (LongType(), lambda at: to_micros(at) // 1000),
}
