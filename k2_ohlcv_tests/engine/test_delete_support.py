"""Row-level deletes: each engine applies those that it supports; others are refused before computing."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import FileFormat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform
from pyiceberg.types import (
    DecimalType,
    FloatType,
    IcebergType,
    StringType,
)

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine.rollup import compute_windows
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.metadata.manifests import data_files
from k2_ohlcv_tests.support import external_tables
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.table_history import current_snapshot_id

START = datetime(2024, 5, 17, tzinfo=UTC)
#: Trades a window. Their quantities are powers of two, so the volume shows which trades were read.
PER_WINDOW = 25
COUNT = 500
HOUR = find_timeframe("1h")
LENGTH = HOUR.length
SPAN = Interval(START, START + 2 * DAY)
COLUMNS: dict[str, IcebergType] = {
    **external_tables.COLUMNS,
    "quantity": DecimalType(12, 0),
    "note": StringType(),
    "weight": FloatType(),
}
DAILY = PartitionSpec(PartitionField(4, 1000, DayTransform(), "day"))


def row(number: int) -> dict[str, Any]:
    return {
        "exchange": "X",
        "symbol": "A",
        "trade_id": number,
        "timestamp": START + number // PER_WINDOW * LENGTH + timedelta(seconds=number % PER_WINDOW),
        "price": 0.5,
        "quantity": Decimal(2 ** (number % PER_WINDOW)),
        "note": None if number % 5 == 0 else f"n{number % 5}",
        "weight": number / 4,
    }


def create_table(each_engine: EngineLake, numbers: Iterable[int] = range(COUNT), **more: Any) -> Table:
    return external_tables.create_table(each_engine.lake, COLUMNS, map(row, numbers), **more)


def read_numbers(engine: Engine, lake: Lake, table: Table, span: Interval = SPAN) -> list[int]:
    """The numbers of the trades that were read into the windows."""
    trades = Lake(lake.catalog, ExternalTradesConfig(table.name())).trades()
    windows = compute_windows(engine, trades, current_snapshot_id(trades), HOUR, [span])
    return sorted(
        int((start - START) / LENGTH) * PER_WINDOW + place
        for start, volume in zip(
            windows["window_start"].to_pylist(), windows["volume"].to_pylist(), strict=True
        )
        for place in range(PER_WINDOW)
        if int(volume) >> place & 1
    )


def check(engine: Engine, lake: Lake, table: Table, is_deleted: Callable[[int], bool]) -> None:
    """Exactly the deleted trades are missing, in all windows and in a few of them."""
    assert read_numbers(engine, lake, table) == [n for n in range(COUNT) if not is_deleted(n)]
    part = Interval(START + 5 * LENGTH, START + 9 * LENGTH)
    wanted = range(5 * PER_WINDOW, 9 * PER_WINDOW)
    assert read_numbers(engine, lake, table, part) == [n for n in wanted if not is_deleted(n)]


def paths(table: Table) -> list[str]:
    snapshot = current_snapshot_id(table.refresh())
    return sorted(file.file_path for file in data_files(table, snapshot))


def numbers_in(path: str) -> list[int]:
    numbers: list[int] = pq.read_table(path.removeprefix("file://"))["trade_id"].to_pylist()
    return numbers


def test_position_deletes_are_applied(each_engine: EngineLake) -> None:
    """Deletes apply across files, commits and row groups, although the predicate skips some groups."""
    table = create_table(each_engine, range(COUNT // 2), properties={"write.parquet.row-group-limit": "40"})
    external_tables.add_rows(table, map(row, range(COUNT // 2, COUNT)))
    files = {path: numbers_in(path) for path in paths(table)}
    for step in (7, 11):
        places = [
            (path, i) for path, numbers in files.items() for i, n in enumerate(numbers) if n % step == 0
        ]
        external_tables.delete_positions(table, places)
    check(each_engine.engine, each_engine.lake, table, lambda n: n % 7 == 0 or n % 11 == 0)


def test_equality_deletes_are_applied(each_engine: EngineLake) -> None:
    """Keys may be several columns, null, or unread columns. Only earlier rows are deleted."""
    table = create_table(each_engine)
    external_tables.delete_equal(table, ["trade_id"], [(n,) for n in range(0, COUNT, 7)])
    external_tables.delete_equal(table, ["note"], [(None,), ("n3",)])
    stamps = [(row(n)["timestamp"], row(n)["note"]) for n in range(1, COUNT, 10)]
    external_tables.delete_equal(table, ["timestamp", "note"], stamps)
    external_tables.add_rows(table, [row(7), row(3)])
    check(
        each_engine.engine,
        each_engine.lake,
        table,
        lambda n: n not in {3, 7} and (n % 7 == 0 or n % 5 in {0, 3} or n % 10 == 1),
    )


def test_deletes_of_one_partition_leave_the_others_alone(each_engine: EngineLake) -> None:
    table = create_table(each_engine, spec=DAILY)
    first = min(data_files(table, current_snapshot_id(table)), key=lambda file: int(file.partition[0]))
    numbers = numbers_in(first.file_path)
    external_tables.delete_positions(table, [(first.file_path, 3)], partition=first.partition)
    external_tables.delete_equal(table, ["note"], [("n1",)], partition=first.partition)
    check(
        each_engine.engine,
        each_engine.lake,
        table,
        lambda n: n in numbers and (n == numbers[3] or n % 5 == 1),
    )


def test_sail_refuses_equality_deletes_by_doubles(sail: EngineLake) -> None:
    """Sail supports no such keys. The error names the column before anything is computed."""
    table = create_table(sail)
    external_tables.delete_equal(table, ["weight", "note"], [(0.25, "n1")])
    with pytest.raises(TableSpecError, match="1 of equality deletes by the float column weight") as caught:
        read_numbers(sail.engine, sail.lake, table)
    assert "SPARK_REMOTE" in str(caught.value)
    assert "rewrite_data_files" in str(caught.value)
    with table.update_schema() as update:
        update.delete_column("weight")
    with pytest.raises(TableSpecError, match="the float column weight"):
        read_numbers(sail.engine, sail.lake, table.refresh())


@pytest.mark.parametrize("kind", [FileFormat.AVRO, FileFormat.ORC])
def test_deletes_that_sail_cannot_read_are_refused(sail: EngineLake, kind: FileFormat) -> None:
    table = create_table(sail)
    external_tables.delete_positions(table, [(paths(table)[0], 0)], kind=kind)
    with pytest.raises(TableSpecError, match=f"1 of position deletes in {kind.value} files"):
        read_numbers(sail.engine, sail.lake, table)


def test_deletes_in_the_projects_own_table_are_checked_too(sail: EngineLake) -> None:
    own = sail.lake.writable_trades()
    rows = [{k: v for k, v in row(n).items() if k not in {"note", "weight"}} for n in range(PER_WINDOW)]
    own_rows = [r | {"trade_id": str(r["trade_id"]), "price": Decimal(1), "ingested_at": START} for r in rows]
    external_tables.add_rows(own, own_rows)
    (file,) = data_files(own, current_snapshot_id(own))
    external_tables.delete_positions(
        own, [(file.file_path, 0)], kind=FileFormat.AVRO, partition=file.partition
    )
    with pytest.raises(TableSpecError, match="position deletes in AVRO files"):
        compute_windows(sail.engine, sail.lake.trades(), current_snapshot_id(own), HOUR, [SPAN])


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
def test_spark_applies_equality_deletes_by_doubles(spark: EngineLake) -> None:
    table = create_table(spark)
    external_tables.delete_equal(table, ["weight", "note"], [(0.25, "n1")])
    check(spark.engine, spark.lake, table, lambda n: n == 1)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@pytest.mark.parametrize(
    ("properties", "refused"),
    [
        ({"format-version": "2"}, None),
        ({"format-version": "3"}, None),
        ({"format-version": "2", "write.delete.format.default": "avro"}, "position deletes in AVRO files"),
        ({"format-version": "2", "write.delete.format.default": "orc"}, "position deletes in ORC files"),
        ({"format-version": "2", "write.format.default": "orc"}, "data in ORC files"),
    ],
)
def test_deletes_that_spark_writes_are_applied_or_refused_by_both_engines(
    spark: EngineLake, sail: EngineLake, properties: dict[str, str], refused: str | None
) -> None:
    """Spark writes position deletes merge-on-read, or deletion vectors that replace earlier ones."""
    table = create_table(spark, [])
    name = f"k2.{'.'.join(table.name())}"
    run = spark.engine.spark.sql
    table_properties = {
        "write.delete.mode": "merge-on-read",
        "write.delete.format.default": "parquet",
        **properties,
    }
    assignments = ", ".join(f"'{key}' = '{value}'" for key, value in table_properties.items())
    run(f"ALTER TABLE {name} SET TBLPROPERTIES ({assignments})")
    for half in (range(COUNT // 2), range(COUNT // 2, COUNT)):
        rows = external_tables.to_arrow(table, map(row, half))
        spark.engine.spark.createDataFrame(rows).coalesce(1).writeTo(name).append()
    for condition in ("trade_id % 7 = 3", "trade_id BETWEEN 140 AND 150", "trade_id BETWEEN 145 AND 260"):
        run(f"DELETE FROM {name} WHERE {condition}")
    is_deleted: Callable[[int], bool] = lambda n: n % 7 == 3 or 140 <= n <= 260  # noqa: E731 - a rule as data
    check(spark.engine, spark.lake, table, is_deleted)
    if refused is None:
        check(sail.engine, spark.lake, table, is_deleted)
    else:
        with pytest.raises(TableSpecError, match=refused):
            read_numbers(sail.engine, spark.lake, table)
