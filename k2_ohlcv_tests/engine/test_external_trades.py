"""Someone else's trades, of every shape, rolled up as the reference does; and what is refused, by name."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.transforms import HourTransform, IdentityTransform, MonthTransform
from pyiceberg.types import (
    DecimalType,
    DoubleType,
    IcebergType,
    IntegerType,
    LongType,
    StringType,
    TimestampType,
    TimestamptzType,
)

from k2_ohlcv.domain.candle import KEY_COLUMNS, Candle, Trade, aggregate
from k2_ohlcv.domain.intervals import Interval, coalesce, to_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe, find_timeframe
from k2_ohlcv.engine.rollup import compute_windows
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.frames.candles import candles_from_windows
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.operations.reconcile import rebuild, refresh
from k2_ohlcv.operations.reports import RefusedWindowsError
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.strategies import MARKETS, moments, trades
from k2_ohlcv_tests.support.trades import make_trade

#: Our names, and theirs: any text will do as a name.
NAMES = {
    "exchange": "venue",
    "symbol": "pair `x`",
    "trade_id": "seq.no",
    "timestamp": "event time",
    "price": "px",
    "quantity": "timestamp",
}
CLOCKS: dict[str, tuple[IcebergType, Callable[[datetime], Any]]] = {
    "zoned": (TimestamptzType(), lambda at: at),
    "local": (TimestampType(), lambda at: at.replace(tzinfo=None)),
    "micros": (LongType(), to_micros),
    "millis": (LongType(), lambda at: to_micros(at) // 1000),
}
IDS: dict[str, tuple[IcebergType | None, Callable[[str], Any]]] = {
    "text": (StringType(), str),
    "long": (LongType(), int),
    "int": (IntegerType(), int),
    "none": (None, str),
}
NUMBERS: dict[str, tuple[IcebergType, Callable[[Decimal], Any]]] = {
    "double": (DoubleType(), float),
    "wide": (DecimalType(38, 18), lambda value: value),
    "narrow": (DecimalType(19, 8), lambda value: value),
}
SPECS = {
    "none": UNPARTITIONED_PARTITION_SPEC,
    "market": PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "v")),
    "hour": PartitionSpec(PartitionField(4, 1000, HourTransform(), "h")),
    "month": PartitionSpec(
        PartitionField(2, 1000, IdentityTransform(), "s"), PartitionField(4, 1001, MonthTransform(), "m")
    ),
}
Shape = tuple[str, str, str, str]
SHAPES: list[Shape] = [
    shape
    for shape in itertools.product(CLOCKS, IDS, NUMBERS, SPECS)
    if not (shape[0] in {"micros", "millis"} and shape[3] in {"hour", "month"})
]


def foreign(
    each_engine: EngineLake, some: list[Trade], shape: Shape = ("zoned", "text", "double", "none")
) -> Lake:
    """A lake whose trades are someone else's, of that shape."""
    clock, ids, numbers, spec = shape
    columns: dict[str, tuple[IcebergType | None, Callable[[Any], Any]]] = {
        "exchange": (StringType(), str),
        "symbol": (StringType(), str),
        "trade_id": IDS[ids],
        "timestamp": CLOCKS[clock],
        "price": NUMBERS[numbers],
        "quantity": NUMBERS[numbers],
    }
    kinds = {NAMES[name]: kind or StringType() for name, (kind, _) in columns.items()}
    rows = [{NAMES[n]: make(getattr(trade, n)) for n, (_, make) in columns.items()} for trade in some]
    table = external_tables.create_table(each_engine.lake, kinds, rows, spec=SPECS[spec])
    named = NAMES | ({"trade_id": ""} if ids == "none" else {})
    return Lake(each_engine.lake.catalog, ExternalTradesConfig(table.name(), tuple(named.items())))


def computed(
    lake: Lake,
    each_engine: EngineLake,
    timeframe: Timeframe,
    intervals: list[Interval],
    cache: WindowCache | None = None,
) -> list[Candle]:
    table = lake.trades()
    snapshot = table.current_snapshot()
    assert snapshot is not None
    found = compute_windows(
        each_engine.engine, table, snapshot.snapshot_id, timeframe, intervals, cache=cache
    )
    candles, _ = candles_from_windows(found, timeframe)
    return [Candle(**row) for row in candles.sort(*KEY_COLUMNS).to_dicts()]


def days_of(some: list[Trade]) -> list[Interval]:
    return coalesce(Grain.DAY.partition(trade.timestamp) for trade in some)


def meant(some: list[Trade], shape: Shape) -> list[Trade]:
    """The trades that a table of that shape has: to the millisecond, as doubles, in the order without ids."""
    if shape[0] == "millis":
        some = [
            replace(t, timestamp=t.timestamp.replace(microsecond=t.timestamp.microsecond // 1000 * 1000))
            for t in some
        ]
    if shape[2] == "double":
        some = [
            replace(t, price=Decimal(repr(float(t.price))), quantity=Decimal(repr(float(t.quantity))))
            for t in some
        ]
    if shape[1] == "none":
        ordered = sorted(some, key=lambda t: (t.timestamp, t.price, t.quantity))
        some = [replace(t, trade_id=f"{i:09}") for i, t in enumerate(ordered)]
    return some


def check(each_engine: EngineLake, some: list[Trade], shape: Shape, *, every: bool = False) -> None:
    lakes.drop_tables(each_engine.lake)
    lake, wanted = foreign(each_engine, some, shape), meant(some, shape)
    days = days_of(wanted)
    cache = WindowCache(TIMEFRAMES)
    for each in TIMEFRAMES if every else (find_timeframe("1m"), find_timeframe("1d")):
        assert computed(lake, each_engine, each, days, cache) == aggregate(wanted, each), (shape, each.name)
    assert computed(lake, each_engine, find_timeframe("5m"), days) == aggregate(
        wanted, find_timeframe("5m")
    ), shape


@st.composite
def plain(draw: st.DrawFn, most: int = 30) -> list[Trade]:
    """Trades as people write them, of few decimals, often equal in time, and in price, and in all."""
    few = st.integers(1, 10**6).map(lambda n: Decimal(n).scaleb(-draw(st.integers(0, 8))))
    kept = st.sampled_from(draw(st.lists(few, min_size=1, max_size=4)))
    at = st.sampled_from(draw(st.lists(moments(), min_size=1, max_size=6)))
    return [
        make_trade(
            market=draw(st.sampled_from(MARKETS)),
            number=number,
            at=draw(at),
            price=draw(kept),
            quantity=draw(kept),
        )
        for number in range(1, draw(st.integers(2, most)))
    ]


@settings(max_examples=40)
@given(plain(), st.sampled_from(SHAPES))
def test_sail_reads_tables_of_every_shape(sail: EngineLake, some: list[Trade], shape: Shape) -> None:
    check(sail, some, shape, every=True)


@settings(max_examples=10)
@given(trades(), st.sampled_from([s for s in SHAPES if s[2] != "double"]))
def test_sail_reads_huge_and_tiny_decimals(sail: EngineLake, some: list[Trade], shape: Shape) -> None:
    check(sail, some, shape)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
@settings(max_examples=1)
@given(st.lists(plain(), min_size=8, max_size=8))
def test_spark_reads_tables_of_every_shape(spark: EngineLake, lots: list[list[Trade]]) -> None:
    """A few of the shapes, in which each kind of everything occurs: Spark is slow."""
    some = [replace(t, exchange=f"{t.exchange}-{i}") for i, lot in enumerate(lots) for t in lot]
    for shape in zip(
        CLOCKS, IDS, ["double", "wide", "narrow", "double"], ["hour", "month", "none", "market"], strict=True
    ):
        check(spark, some, shape)


def test_equal_rows_without_ids_are_distinct_trades(each_engine: EngineLake) -> None:
    at = datetime(2024, 5, 17, 12, tzinfo=UTC)
    twins = [make_trade(i, at, "0.1", "0.2", market=("X", "A")) for i in range(3)]
    lake = foreign(each_engine, twins, ("zoned", "none", "double", "none"))
    (candle,) = computed(lake, each_engine, find_timeframe("1m"), days_of(twins))
    assert (candle.trade_count, candle.volume) == (3, Decimal("0.6"))


AT = datetime(2024, 5, 17, 12, tzinfo=UTC)
GOOD = {
    "venue": "X",
    "pair `x`": "A",
    "seq.no": "7",
    "event time": AT,
    "px": 1.5,
    "timestamp": 2.0,
}


@pytest.mark.parametrize(
    "wrong",
    [
        {
            "px=0.30000000000000004": {"px": 0.1 + 0.2},
            "px=1e-09": {"px": 1e-9},
            "px=10000000000.0": {"px": 1e10},
            "px=nan": {"px": math.nan},
            "px=-1.0": {"px": -1.0},
        },
        {
            "timestamp=0.0": {"timestamp": 0.0},
            "timestamp=inf": {"timestamp": math.inf},
            "timestamp=None": {"timestamp": None},
            "venue=None": {"venue": None},
            "pair `x`=None": {"pair `x`": None},
        },
        {"seq.no=None": {"seq.no": None}},
    ],
)
def test_rows_that_do_not_fit_fail_by_name_and_hold_up_no_other_window(
    sail: EngineLake, wrong: dict[str, dict[str, Any]]
) -> None:
    lake = foreign(sail, [])
    table = sail.lake.catalog.load_table(lake.trades().name())
    others = [GOOD | {"event time": AT + timedelta(hours=30)}] * 3
    external_tables.add_rows(
        table, [GOOD, *(GOOD | {"seq.no": "8"} | change for change in wrong.values()), *others]
    )
    with pytest.raises(RefusedWindowsError, match="cannot be read exactly") as caught:
        rebuild(lake, sail.engine, find_timeframe("1m"))
    shown = str(caught.value)
    assert [said for said in wrong if said not in shown] == []
    assert shown.count("venue=") == len(wrong)
    stored = lakes.read_candles(lake, find_timeframe("1m"))
    assert [c.window_start for c in stored] == [AT + timedelta(hours=30)], "the others are committed"


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
def test_spark_fails_by_name_as_well(spark: EngineLake) -> None:
    lake = foreign(spark, [])
    table = spark.lake.catalog.load_table(lake.trades().name())
    external_tables.add_rows(
        table,
        [GOOD, GOOD | {"px": 0.1 + 0.2}, GOOD | {"timestamp": float("nan")}, GOOD | {"venue": None}],
    )
    with pytest.raises(RefusedWindowsError, match="cannot be read exactly") as caught:
        rebuild(lake, spark.engine, find_timeframe("1m"))
    assert str(caught.value).count("venue=") == 3


def test_a_decimal_that_does_not_fit_fails_by_name(each_engine: EngineLake) -> None:
    some = [make_trade(i, AT, price, 1, market=("X", "A")) for i, price in enumerate(["1", "1.000000001"])]
    with pytest.raises(RefusedWindowsError, match=r"px=1\.000000001000000000"):
        rebuild(
            foreign(each_engine, some, ("zoned", "text", "wide", "none")),
            each_engine.engine,
            find_timeframe("1h"),
        )


@pytest.mark.parametrize("clock", CLOCKS)
def test_files_outside_the_intervals_are_not_read(each_engine: EngineLake, clock: str) -> None:
    """The predicate is on their own column in its own type: a file that it rules out may be gone."""
    first = [make_trade("1", AT, 1, 1, market=("X", "A"))]
    lake = foreign(each_engine, first, (clock, "text", "double", "none"))
    table = each_engine.lake.catalog.load_table(lake.trades().name())
    (kept,) = lakes.list_data_files(table)
    later = CLOCKS[clock][1](AT + timedelta(days=3))
    external_tables.add_rows(table, [GOOD | {"event time": later}])
    (gone,) = set(lakes.list_data_files(table)) - {kept}
    Path(gone.removeprefix("file://")).unlink()
    assert computed(lake, each_engine, find_timeframe("1m"), days_of(first)) == aggregate(
        first, find_timeframe("1m")
    )
    with pytest.raises(Exception, match=r"(?i)not found|no such file|not exist"):
        computed(lake, each_engine, find_timeframe("1m"), [Grain.DAY.partition(AT + timedelta(days=3))])


@pytest.mark.parametrize("shape", random.Random(3).sample(SHAPES, 4))
def test_candles_of_a_foreign_table_are_reconciled(sail: EngineLake, shape: Shape) -> None:
    """From the settings to the stored candles, and again after their table changed."""
    some = [
        make_trade(i, AT + i * timedelta(minutes=7), 100 + i % 7, i + 1, market=("X", "A"))
        for i in range(500)
    ]
    lake = foreign(sail, some, shape)
    for each in TIMEFRAMES:
        assert rebuild(lake, sail.engine, each).watermark_moved
    lakes.assert_equal_to_trades(lake, meant(some, shape))


@pytest.mark.parametrize("clock", CLOCKS)
def test_refresh_follows_a_foreign_table(sail: EngineLake, clock: str) -> None:
    """Whatever their columns are called: here one of them has the name of ours, and means something else."""
    some = [
        make_trade(i, AT + i * timedelta(minutes=1), 1 + i % 7, i + 1, market=("X", "A")) for i in range(90)
    ]
    lake = foreign(sail, some[:50], (clock, "text", "double", "none"))
    table = sail.lake.catalog.load_table(lake.trades().name())
    assert rebuild(lake, sail.engine, find_timeframe("5m")).watermark_moved
    moment = CLOCKS[clock][1]
    more = [
        GOOD
        | {
            "seq.no": t.trade_id,
            "event time": moment(t.timestamp),
            "px": float(t.price),
            "timestamp": float(t.quantity),
        }
        for t in some[50:]
    ]
    external_tables.add_rows(table, more)
    assert refresh(lake, sail.engine, find_timeframe("5m")).watermark_moved
    lakes.assert_equal_to_trades(lake, some, [find_timeframe("5m")])
    external_tables.delete_equal(table, ["seq.no"], [("7",)])
    assert refresh(lake, sail.engine, find_timeframe("5m")).watermark_moved
    lakes.assert_equal_to_trades(lake, [t for t in some if t.trade_id != "7"], [find_timeframe("5m")])
