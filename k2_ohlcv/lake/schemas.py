"""The specs of the tables: columns, types, partitions, sort orders and properties.

This module has data only. Creating and verifying tables is in `catalog`.
"""

from dataclasses import dataclass

from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import SortField, SortOrder
from pyiceberg.transforms import DayTransform, IdentityTransform, MonthTransform, Transform
from pyiceberg.types import (
    DateType,
    DecimalType,
    IcebergType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from k2_ohlcv.domain import types
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe

NAMESPACE = "market_data"
TRADES_TABLE = "gold_crypto_trades"
REJECTED_TABLE = "rejected_trades"

#: The number of newest snapshots that a commit keeps. A commit took 1.6 s at 1,000 snapshots, 12 s at 3,000.
MIN_SNAPSHOTS_KEPT = 100

PRICE = DecimalType(*types.PRICE)
QUANTITY = DecimalType(*types.QUANTITY)
VOLUME = DecimalType(*types.VOLUME)

_PROPERTIES = {
    # PyIceberg's own retry would re-apply properties on a newer base. `retry` starts over from the load.
    "commit.retry.num-retries": "0",
    "commit.manifest-merge.enabled": "true",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
}


@dataclass(frozen=True)
class TableSpec:
    """The specification of a table, by which the table is created and verified.

    Attributes:
        name: the name in the namespace.
        schema: the columns and their types.
        partition_spec: partitions by the grain of the time column.
        sort_order: the order of rows in a file.
        time_column: the column that partitions the table.
        grain: the length of a partition.
        properties: the table properties at creation.
    """

    name: str
    schema: Schema
    partition_spec: PartitionSpec
    sort_order: SortOrder
    time_column: str
    grain: Grain
    properties: dict[str, str]

    @property
    def identifier(self) -> tuple[str, str]:
        """Namespace and name."""
        return (NAMESPACE, self.name)


def _build_schema(
    *columns: tuple[str, IcebergType], optional: tuple[str, ...] = (), key: tuple[str, ...] = ()
) -> Schema:
    fields = [
        NestedField(number, name, type_, required=name not in optional)
        for number, (name, type_) in enumerate(columns, start=1)
    ]
    return Schema(*fields, identifier_field_ids=[f.field_id for f in fields if f.name in key])


def _build_partition_spec(schema: Schema, column: str, grain: Grain) -> PartitionSpec:
    transform: Transform[object, int] = DayTransform() if grain is Grain.DAY else MonthTransform()
    source = schema.find_field(column).field_id
    return PartitionSpec(PartitionField(source, 1000, transform, f"{column}_{grain.value}"))


def _build_sort_order(schema: Schema, *columns: str) -> SortOrder:
    return SortOrder(
        *(SortField(schema.find_field(c).field_id, transform=IdentityTransform()) for c in columns)
    )


def _trades_spec() -> TableSpec:
    schema = _build_schema(
        ("exchange", StringType()),
        ("symbol", StringType()),
        ("trade_id", StringType()),
        ("timestamp", TimestamptzType()),
        ("price", PRICE),
        ("quantity", QUANTITY),
        ("ingested_at", TimestamptzType()),
    )
    return TableSpec(
        TRADES_TABLE,
        schema,
        _build_partition_spec(schema, "timestamp", Grain.DAY),
        _build_sort_order(schema, "timestamp"),
        "timestamp",
        Grain.DAY,
        _PROPERTIES,
    )


def _rejected_spec() -> TableSpec:
    schema = _build_schema(
        ("source", StringType()),
        ("line", LongType()),
        ("reason", StringType()),
        ("raw", StringType()),
        ("exchange", StringType()),
        ("symbol", StringType()),
        ("rejected_at", TimestamptzType()),
        optional=("exchange", "symbol"),
    )
    return TableSpec(
        REJECTED_TABLE,
        schema,
        _build_partition_spec(schema, "rejected_at", Grain.DAY),
        _build_sort_order(schema, "source", "line"),
        "rejected_at",
        Grain.DAY,
        _PROPERTIES,
    )


def _candles_spec(timeframe: Timeframe) -> TableSpec:
    schema = _build_schema(
        ("symbol", StringType()),
        ("exchange", StringType()),
        ("window_start", TimestamptzType()),
        ("window_end", TimestamptzType()),
        ("window_date", DateType()),
        ("open_price", PRICE),
        ("high_price", PRICE),
        ("low_price", PRICE),
        ("close_price", PRICE),
        ("volume", VOLUME),
        ("trade_count", LongType()),
        ("vwap", PRICE),
        ("created_at", TimestamptzType()),
        ("updated_at", TimestamptzType()),
        key=("exchange", "symbol", "window_start"),
    )
    return TableSpec(
        timeframe.table,
        schema,
        _build_partition_spec(schema, "window_start", timeframe.grain),
        _build_sort_order(schema, "exchange", "symbol", "window_start"),
        "window_start",
        timeframe.grain,
        _PROPERTIES,
    )


TRADES_SPEC = _trades_spec()
REJECTED_SPEC = _rejected_spec()
CANDLE_SPECS = {timeframe.name: _candles_spec(timeframe) for timeframe in TIMEFRAMES}
#: Every table spec, by table name.
TABLE_SPECS = {spec.name: spec for spec in (TRADES_SPEC, REJECTED_SPEC, *CANDLE_SPECS.values())}
