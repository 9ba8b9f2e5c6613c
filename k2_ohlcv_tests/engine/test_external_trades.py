"""Rows of external trades tables: equal rows, rows that cannot be read exactly, and later changes."""

import math
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.operations.reconcile import rebuild, refresh
from k2_ohlcv.operations.reports import RefusedWindowsError
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.external_shapes import ROW_TIME, VALID_ROW, create_external_lake
from k2_ohlcv_tests.support.time_forms import TIME_FORMS
from k2_ohlcv_tests.support.trades import make_trade
from k2_ohlcv_tests.support.windows import compute_candles, list_trade_days

MINUTE, FIVE_MINUTES, HOUR = (find_timeframe(name) for name in ("1m", "5m", "1h"))


def test_equal_rows_without_ids_are_distinct_trades(each_engine: EngineLake) -> None:
    twins = [make_trade(i, ROW_TIME, "0.1", "0.2", market=("X", "A")) for i in range(3)]
    lake = create_external_lake(each_engine.lake, twins, ("zoned", "none", "double", "none"))
    (candle,) = compute_candles(each_engine.engine, lake.trades(), MINUTE, list_trade_days(twins))
    assert (candle.trade_count, candle.volume) == (3, Decimal("0.6"))


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
def test_rows_that_cannot_be_read_exactly_fail_by_name_and_other_windows_are_committed(
    sail: EngineLake, wrong: dict[str, dict[str, Any]]
) -> None:
    lake = create_external_lake(sail.lake, [])
    table = sail.lake.catalog.load_table(lake.trades().name())
    later = [VALID_ROW | {"event time": ROW_TIME + timedelta(hours=30)}] * 3
    external_tables.add_rows(
        table, [VALID_ROW, *(VALID_ROW | {"seq.no": "8"} | change for change in wrong.values()), *later]
    )
    with pytest.raises(RefusedWindowsError, match="cannot be read exactly") as caught:
        rebuild(lake, sail.engine, MINUTE)
    message = str(caught.value)
    assert [text for text in wrong if text not in message] == []
    assert message.count("venue=") == len(wrong)
    stored = lakes.read_candles(lake, MINUTE)
    assert [c.window_start for c in stored] == [ROW_TIME + timedelta(hours=30)], "other windows are committed"


@pytest.mark.parametrize("column", ["venue", "pair `x`"])
def test_a_window_without_a_market_is_refused_whatever_its_ids_are(sail: EngineLake, column: str) -> None:
    """An id that is no number has no packed order, so its window is computed again, beside many others."""
    lake = create_external_lake(sail.lake, [])
    table = sail.lake.catalog.load_table(lake.trades().name())
    others = [VALID_ROW | {"event time": ROW_TIME + timedelta(minutes=i)} for i in range(4)]
    external_tables.add_rows(table, [*others, VALID_ROW | {column: None, "seq.no": "a7"}])
    with pytest.raises(RefusedWindowsError, match="1 windows"):
        rebuild(lake, sail.engine, MINUTE)
    assert len(lakes.read_candles(lake, MINUTE)) == len(others)


@pytest.mark.spark
@pytest.mark.xdist_group("spark")
def test_spark_names_rows_that_cannot_be_read_exactly(spark: EngineLake) -> None:
    lake = create_external_lake(spark.lake, [])
    table = spark.lake.catalog.load_table(lake.trades().name())
    external_tables.add_rows(
        table,
        [
            VALID_ROW,
            VALID_ROW | {"px": 0.1 + 0.2},
            VALID_ROW | {"timestamp": float("nan")},
            VALID_ROW | {"venue": None},
        ],
    )
    with pytest.raises(RefusedWindowsError, match="cannot be read exactly") as caught:
        rebuild(lake, spark.engine, MINUTE)
    assert str(caught.value).count("venue=") == 3


def test_a_decimal_that_does_not_fit_fails_by_name(each_engine: EngineLake) -> None:
    given_trades = [
        make_trade(i, ROW_TIME, price, 1, market=("X", "A")) for i, price in enumerate(["1", "1.000000001"])
    ]
    with pytest.raises(RefusedWindowsError, match=r"px=1\.000000001000000000"):
        rebuild(
            create_external_lake(each_engine.lake, given_trades, ("zoned", "text", "wide", "none")),
            each_engine.engine,
            HOUR,
        )


@pytest.mark.parametrize("time_unit", TIME_FORMS)
def test_files_outside_the_intervals_are_not_read(each_engine: EngineLake, time_unit: str) -> None:
    """The predicate is on the external column in its own type. A file that it rules out may be missing."""
    first = [make_trade("1", ROW_TIME, 1, 1, market=("X", "A"))]
    lake = create_external_lake(each_engine.lake, first, (time_unit, "text", "double", "none"))
    table = each_engine.lake.catalog.load_table(lake.trades().name())
    (kept_path,) = lakes.list_data_files(table)
    later = TIME_FORMS[time_unit][1](ROW_TIME + timedelta(days=3))
    external_tables.add_rows(table, [VALID_ROW | {"event time": later}])
    (removed_path,) = set(lakes.list_data_files(table)) - {kept_path}
    Path(removed_path.removeprefix("file://")).unlink()
    assert compute_candles(each_engine.engine, lake.trades(), MINUTE, list_trade_days(first)) == aggregate(
        first, MINUTE
    )
    with pytest.raises(Exception, match=r"(?i)not found|no such file|not exist"):
        compute_candles(
            each_engine.engine, lake.trades(), MINUTE, [Grain.DAY.partition(ROW_TIME + timedelta(days=3))]
        )


@pytest.mark.parametrize("time_unit", TIME_FORMS)
def test_refresh_follows_an_external_table(sail: EngineLake, time_unit: str) -> None:
    """Its quantity column is called `timestamp`, which is the name of another trade column."""
    given_trades = [
        make_trade(i, ROW_TIME + i * timedelta(minutes=1), 1 + i % 7, i + 1, market=("X", "A"))
        for i in range(90)
    ]
    lake = create_external_lake(sail.lake, given_trades[:50], (time_unit, "text", "double", "none"))
    table = sail.lake.catalog.load_table(lake.trades().name())
    assert rebuild(lake, sail.engine, FIVE_MINUTES).watermark_moved
    moment = TIME_FORMS[time_unit][1]
    more = [
        VALID_ROW
        | {
            "seq.no": t.trade_id,
            "event time": moment(t.timestamp),
            "px": float(t.price),
            "timestamp": float(t.quantity),
        }
        for t in given_trades[50:]
    ]
    external_tables.add_rows(table, more)
    assert refresh(lake, sail.engine, FIVE_MINUTES).watermark_moved
    lakes.assert_equal_to_trades(lake, given_trades, [FIVE_MINUTES])
    external_tables.delete_equal(table, ["seq.no"], [("7",)])
    assert refresh(lake, sail.engine, FIVE_MINUTES).watermark_moved
    lakes.assert_equal_to_trades(lake, [t for t in given_trades if t.trade_id != "7"], [FIVE_MINUTES])
