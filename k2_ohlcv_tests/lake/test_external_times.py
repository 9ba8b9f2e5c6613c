"""The time column of an external trades table: its unit, and the spans of data files."""

from datetime import UTC, datetime

import polars as pl
import pytest
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    YearTransform,
)
from pyiceberg.types import IcebergType, LongType, TimestampType, TimestamptzType

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.intervals import MICROSECOND, Interval, to_micros
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake import external_trades
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTrades, find_time_column
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.time_column import TimeUnit
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.external_trades import (
    NO_BOUNDS,
    TRADE_ROW,
    TRADE_TIME,
    create_timed_table,
    only_file_span,
    open_external_lake,
    open_external_trades,
)


@pytest.mark.parametrize(
    ("kind", "value", "clock"),
    [
        (TimestamptzType(), TRADE_TIME, TimeUnit.ZONED),
        (TimestampType(), TRADE_TIME.replace(tzinfo=None), TimeUnit.LOCAL),
        (LongType(), to_micros(TRADE_TIME), TimeUnit.MICROS),
        (LongType(), to_micros(TRADE_TIME) // 1000, TimeUnit.MILLIS),
    ],
)
def test_spans_come_from_file_bounds(lake: Lake, kind: IcebergType, value: object, clock: TimeUnit) -> None:
    """Timestamps and longs give the exact span of a file."""
    trades = create_timed_table(lake, kind, value)
    moment = TRADE_TIME.replace(microsecond=123000) if clock is TimeUnit.MILLIS else TRADE_TIME
    assert trades.time_unit is clock
    assert only_file_span(trades) == Interval(moment, moment + MICROSECOND)
    times = pl.DataFrame(trades.scan().to_arrow())["timestamp"]
    assert find_time_column(trades, "timestamp").micros(times).to_list() == [to_micros(moment)]


def test_values_of_another_unit_have_no_time(lake: Lake) -> None:
    """A value outside the unit's range is null."""
    time = find_time_column(create_timed_table(lake, LongType(), to_micros(TRADE_TIME) // 1000), "timestamp")
    values = pl.Series([1_700_000_000_000, 1_700_000_000_000_000, 0, None])
    assert time.micros(values).to_list() == [1_700_000_000_000_000, None, None, None]


@pytest.mark.parametrize("value", [0, to_micros(TRADE_TIME) // 10**6, to_micros(TRADE_TIME) * 1000, -5])
def test_a_long_of_another_unit_is_refused(lake: Lake, value: int) -> None:
    """Seconds, nanoseconds and non-positive values are refused."""
    with pytest.raises(TableSpecError, match=f"has {value} in .*milliseconds or microseconds"):
        create_timed_table(lake, LongType(), value)


@pytest.mark.parametrize("unit", [1, 1000])
def test_one_stray_row_does_not_change_the_unit(lake: Lake, unit: int) -> None:
    """9999-12-31 in milliseconds is as large as microseconds."""
    usual_row = TRADE_ROW | {"timestamp": to_micros(TRADE_TIME) // unit}
    stray_row = TRADE_ROW | {"timestamp": 253_402_300_799_999_999 // unit}
    table = external_tables.create_table(
        lake, external_tables.COLUMNS | {"timestamp": LongType()}, [usual_row, stray_row]
    )
    expected = TimeUnit.MILLIS if unit == 1000 else TimeUnit.MICROS
    assert open_external_trades(lake, table).time_unit is expected
    external_tables.add_rows(table, [stray_row])
    assert open_external_trades(lake, table).time_unit is expected


def test_a_long_of_unknown_unit_is_refused(lake: Lake) -> None:
    """Without bounds the error says how to enable them. An empty table is accepted."""
    with pytest.raises(TableSpecError, match=r"Set write\.metadata\.metrics\.column\.timestamp=full"):
        create_timed_table(lake, LongType(), 5, properties=NO_BOUNDS)
    empty = open_external_lake(
        lake, external_tables.create_table(lake, external_tables.COLUMNS | {"timestamp": LongType()})
    ).trades()
    assert isinstance(empty, ExternalTrades)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (DayTransform(), Interval(datetime(2024, 5, 17, tzinfo=UTC), datetime(2024, 5, 18, tzinfo=UTC))),
        (MonthTransform(), Interval(datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC))),
        (YearTransform(), Interval(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))),
        (
            HourTransform(),
            Interval(datetime(2024, 5, 17, 13, tzinfo=UTC), datetime(2024, 5, 17, 14, tzinfo=UTC)),
        ),
        (IdentityTransform(), Interval(TRADE_TIME, TRADE_TIME + MICROSECOND)),
        (BucketTransform(4), possible_trade_times()),
        (None, possible_trade_times()),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_a_file_without_bounds_counts_as_its_partition(
    lake: Lake, transform: Transform[object, object] | None, expected: Interval, local: bool
) -> None:
    """The span is the time partition, or any possible time."""
    kind, value = (
        (TimestampType(), TRADE_TIME.replace(tzinfo=None)) if local else (TimestamptzType(), TRADE_TIME)
    )
    fields = [PartitionField(2, 1000, IdentityTransform(), "market")]
    fields += [PartitionField(4, 1001, transform, "part")] if transform else []
    trades = create_timed_table(lake, kind, value, spec=PartitionSpec(*fields), properties=NO_BOUNDS)
    assert only_file_span(trades) == expected


def test_truncated_longs_are_partitions_of_time(lake: Lake) -> None:
    """A truncation to days gives the day as span."""
    spec = PartitionSpec(PartitionField(4, 1000, TruncateTransform(86_400_000), "day"))
    table = external_tables.create_table(
        lake,
        external_tables.COLUMNS | {"timestamp": LongType()},
        [TRADE_ROW | {"timestamp": to_micros(TRADE_TIME) // 1000}],
        spec=spec,
    )
    trades = external_trades.ExternalTrades(table, {"timestamp": 4}, TimeUnit.MILLIS)
    (file,) = live_files(trades, table_history.current_snapshot_id(trades))
    data_file = file.file
    data_file._data[10] = data_file._data[11] = None  # as a writer without column statistics leaves the file
    assert trades.span(data_file) == Grain.DAY.partition(TRADE_TIME)


def test_deletes_without_a_time_partition_have_any_time(lake: Lake) -> None:
    """Data files keep their own span."""
    trades = create_timed_table(lake, TimestamptzType(), TRADE_TIME)
    external_tables.delete_positions(
        lake.catalog.load_table(trades.name()), [(lakes.list_data_files(trades)[0], 0)]
    )
    trades.refresh()
    spans = {f.is_delete: f.span for f in live_files(trades, table_history.current_snapshot_id(trades))}
    assert spans == {False: Interval(TRADE_TIME, TRADE_TIME + MICROSECOND), True: possible_trade_times()}
