"""Times: before 1970 windows are whole, and what cannot be a trade's time is in none of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyiceberg.types import DoubleType, IcebergType, LongType, StringType, TimestampType, TimestamptzType

from k2_ohlcv.domain import trading_times as times
from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY, EPOCH, LAST_MOMENT, MICROSECOND, Interval, to_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, find_timeframe
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.engine import rollup
from k2_ohlcv.engine.impossible_times import ImpossibleTimes, find_impossible_times
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.history_bounds import newest_trade_time
from k2_ohlcv.lake.metadata import files, pending_changes, snapshot_diff
from k2_ohlcv.operations import plan as planning
from k2_ohlcv.operations.reconcile import rebuild, refresh
from k2_ohlcv.operations.validate import validate
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import make_trade

#: A few days ago: what has a stray row counts with its bounds, which reach until tomorrow then.
AT = possible_trade_times().end - 5 * DAY + timedelta(hours=12)
MINUTE = find_timeframe("1m")
COLUMNS = {
    "exchange": StringType(),
    "symbol": StringType(),
    "trade_id": LongType(),
    "timestamp": TimestamptzType(),
    "price": DoubleType(),
    "quantity": DoubleType(),
}
CLOCKS: dict[str, tuple[IcebergType, Callable[[datetime], Any]]] = {
    "zoned": (TimestamptzType(), lambda at: at),
    "local": (TimestampType(), lambda at: at.replace(tzinfo=None)),
    "micros": (LongType(), to_micros),
    "millis": (LongType(), lambda at: to_micros(at) // 1000),
}
#: Times that no trade has.
STRAYS = [
    datetime.min.replace(tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2008, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2150, 1, 1, tzinfo=UTC),
    LAST_MOMENT,
]


def trade(number: int, at: datetime, symbol: str = "A") -> Trade:
    return make_trade(number, at, "1.5", number + 1, market=("X", symbol))


def row(one: Trade) -> dict[str, object]:
    return {
        **vars(one),
        "trade_id": int(one.trade_id),
        "price": float(one.price),
        "quantity": float(one.quantity),
    }


def test_windows_before_1970_are_whole(each_engine: EngineLake) -> None:
    """Divided toward zero, the last second of 1969 would fall into the first window of 1970."""
    moments = [EPOCH + n * timedelta(seconds=1) for n in (-86_401, -61, -60, -1, 0, 59)]
    rows = pl.DataFrame({"at": [to_micros(at) for at in moments]}).to_arrow()
    frame = each_engine.engine.spark.createDataFrame(rows).selectExpr("timestamp_micros(at) AS at")
    for each in TIMEFRAMES:
        found = frame.select("at", rollup.window_start_of("at", each).alias("start")).toArrow().to_pylist()
        assert {r["at"]: r["start"] for r in found} == {at: each.floor(at) for at in moments}


@pytest.mark.parametrize("clock", CLOCKS)
def test_rows_of_impossible_times_are_left_out(each_engine: EngineLake, clock: str) -> None:
    """And of no time at all; all else goes on, in the same market and in every command's planning."""
    kind, moment = CLOCKS[clock]
    good = [trade(0, AT), trade(1, AT + timedelta(minutes=1), "B")]
    table = external_tables.create_table(each_engine.lake, COLUMNS | {"timestamp": kind})
    strays = [trade(2 + i, at) for i, at in enumerate(STRAYS)]
    rows = [row(t) | {"timestamp": moment(t.timestamp)} for t in (*good, *strays)]
    past = len(good) + 3
    external_tables.add_rows(table, [*rows[: len(good)], *rows[past:], rows[1] | {"timestamp": None}])
    external_tables.add_rows(table, rows[len(good) : past])
    lake = Lake(each_engine.lake.catalog, ExternalTradesConfig(table.name()))
    for each in TIMEFRAMES:
        rebuild(lake, each_engine.engine, each)
    lakes.assert_equal_to_trades(lake, good)
    more = trade(10, AT + DAY)
    external_tables.add_rows(table, [row(more) | {"timestamp": moment(more.timestamp)}])
    external_tables.add_rows(table, [row(strays[1]) | {"timestamp": moment(strays[1].timestamp)}])
    assert refresh(lake, each_engine.engine, MINUTE).plan.intervals == (MINUTE.window(more.timestamp),)
    lakes.assert_equal_to_trades(lake, [*good, more], [MINUTE])
    finding = {f.check: f for f in validate(lake, each_engine.engine, MINUTE, [Grain.DAY.partition(AT)])}
    assert finding["reconciles_with_trades"].is_ok
    assert (finding["trade_times"].is_ok, finding["trade_times"].failures) == (False, 7)
    assert "the first market is X A, with 6 from" in finding["trade_times"].note


def test_the_rows_that_are_left_out_are_named(each_engine: EngineLake) -> None:
    table = lakes.add_trades(
        each_engine.lake, [trade(0, AT), trade(1, STRAYS[1], "B"), trade(2, STRAYS[2], "B")]
    )
    lakes.add_trades(each_engine.lake, [trade(3, LAST_MOMENT)])
    snapshot = table.refresh().metadata.current_snapshot_id
    assert snapshot is not None
    assert find_impossible_times(each_engine.engine, table, snapshot, possible_trade_times()) == [
        ImpossibleTimes("X", "B", 2, "1969-12-31T23:59:59+00:00", "2008-12-31T23:59:59.999999+00:00"),
        ImpossibleTimes("X", "A", 1, "9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59.999999+00:00"),
    ]


def test_only_files_that_may_have_strays_are_read(sail: EngineLake) -> None:
    """Metadata rules the others out: without any of its files, a clean table is clean."""
    table = lakes.add_trades(sail.lake, [trade(0, AT)])
    for path in lakes.list_data_files(table):
        Path(path.removeprefix("file://")).unlink()
    snapshot = table.metadata.current_snapshot_id
    assert snapshot is not None
    assert find_impossible_times(sail.engine, table, snapshot, possible_trade_times()) == []


def test_a_stray_row_is_not_the_newest_trade(lake: Lake) -> None:
    """Retention and frozen lines measure from it."""
    table = lakes.add_trades(lake, [trade(0, AT)])
    assert newest_trade_time(table) == AT
    lakes.add_trades(lake, [trade(1, LAST_MOMENT)])
    assert newest_trade_time(table.refresh()) == AT
    mixed = external_tables.create_table(lake, COLUMNS, [row(trade(0, AT)), row(trade(1, LAST_MOMENT))])
    found = Lake(lake.catalog, ExternalTradesConfig(mixed.name())).trades()
    assert newest_trade_time(found) == AT


def test_rows_are_taken_in_once_their_time_has_come(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were left out when their snapshot was refreshed, and nothing changed in their file since."""
    soon = trade(1, possible_trade_times().end + timedelta(hours=1))
    table = lakes.add_trades(sail.lake, [trade(0, AT), soon])
    refresh(sail.lake, sail.engine, MINUTE)
    lakes.assert_equal_to_trades(sail.lake, [trade(0, AT)], [MINUTE])
    tomorrow = Interval(times.OLDEST_TRADE, possible_trade_times().end + DAY)
    real = times.possible_trade_times
    for module in (times, files, snapshot_diff):
        monkeypatch.setattr(module, "trading_times", lambda now=None: real(now) if now else tomorrow)
    added = trade(2, AT + DAY)
    table.append(lakes.to_trades_rows(table, [added]))
    refresh(sail.lake, sail.engine, MINUTE)
    lakes.assert_equal_to_trades(sail.lake, [trade(0, AT), soon, added], [MINUTE])


def test_a_file_that_reaches_beyond_all_times_is_looked_at_once_a_day(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bounds are open each time that a day becomes possible, though it may hold no row of that day."""
    file = [row(trade(0, possible_trade_times().end - timedelta(hours=1))), row(trade(1, LAST_MOMENT))]
    table = external_tables.create_table(sail.lake, COLUMNS, file)
    lake = Lake(sail.lake.catalog, ExternalTradesConfig(table.name()))
    refresh(lake, sail.engine, MINUTE)
    tomorrow = Interval(times.OLDEST_TRADE, possible_trade_times().end + DAY)
    real = times.possible_trade_times
    for module in (times, files, snapshot_diff, pending_changes, planning):
        monkeypatch.setattr(module, "trading_times", lambda now=None: real(now) if now else tomorrow)
    assert not planning.plan_refresh(lake.candles(MINUTE), lake.trades(), MINUTE).is_current
    assert refresh(lake, sail.engine, MINUTE).committed
    assert planning.plan_refresh(lake.candles(MINUTE), lake.trades(), MINUTE).is_current


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), LAST_MOMENT, LAST_MOMENT - DAY])
def test_no_window_or_partition_overflows(at: datetime) -> None:
    for grain in Grain:
        assert at in grain.partition(at) or grain.partition(at).end == LAST_MOMENT
        assert grain.partitions([grain.partition(at)]) == [grain.partition(at)]
        for far in (-(10**9), 10**9, grain.ordinal(at)):
            assert grain.interval_of(far).start < grain.interval_of(far).end
    for each in TIMEFRAMES:
        assert each.window(at).start == each.floor(at)
        span = each.window(at)
        assert each.align([span]) == [span] == [each.window(span.last)]


def test_possible_times_end_with_tomorrow() -> None:
    now = datetime(2024, 5, 17, 23, 59, 59, 999999, tzinfo=UTC)
    assert possible_trade_times(now) == Interval(
        datetime(2009, 1, 1, tzinfo=UTC), datetime(2024, 5, 19, tzinfo=UTC)
    )
    assert possible_trade_times(now + MICROSECOND).end == datetime(2024, 5, 20, tzinfo=UTC)
    assert now + DAY in possible_trade_times(now)  # as far ahead as ingestion takes trades
