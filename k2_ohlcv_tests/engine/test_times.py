"""Times: before 1970 windows are whole, and what cannot be a trade's time is in none of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyiceberg.types import DoubleType, IcebergType, LongType, StringType, TimestampType, TimestamptzType

from k2_ohlcv import plan as planning
from k2_ohlcv.domain import trading_times as times
from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, timeframe
from k2_ohlcv.domain.trading_times import trading_times
from k2_ohlcv.domain.window import DAY, EPOCH, LAST, MICROSECOND, Interval, to_micros
from k2_ohlcv.engine import rollup
from k2_ohlcv.engine.outside import Outside, rows_outside
from k2_ohlcv.lake import changes, files, open_work
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.foreign import Source
from k2_ohlcv.lake.lines import newest_trade
from k2_ohlcv.reconcile import rebuild, refresh
from k2_ohlcv.validate import validate
from k2_ohlcv_tests import lakes, theirs
from k2_ohlcv_tests.support.bench import Bench
from k2_ohlcv_tests.support.trades import make_trade

#: A few days ago: what has a stray row counts with its bounds, which reach until tomorrow then.
AT = trading_times().end - 5 * DAY + timedelta(hours=12)
MINUTE = timeframe("1m")
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
    LAST,
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


def test_windows_before_1970_are_whole(bench: Bench) -> None:
    """Divided toward zero, the last second of 1969 would fall into the first window of 1970."""
    moments = [EPOCH + n * timedelta(seconds=1) for n in (-86_401, -61, -60, -1, 0, 59)]
    rows = pl.DataFrame({"at": [to_micros(at) for at in moments]}).to_arrow()
    frame = bench.engine.spark.createDataFrame(rows).selectExpr("timestamp_micros(at) AS at")
    for each in TIMEFRAMES:
        found = frame.select("at", rollup.floored("at", each).alias("start")).toArrow().to_pylist()
        assert {r["at"]: r["start"] for r in found} == {at: each.floor(at) for at in moments}


@pytest.mark.parametrize("clock", CLOCKS)
def test_rows_of_impossible_times_are_left_out(bench: Bench, clock: str) -> None:
    """And of no time at all; all else goes on, in the same market and in every command's planning."""
    kind, moment = CLOCKS[clock]
    good = [trade(0, AT), trade(1, AT + timedelta(minutes=1), "B")]
    table = theirs.create(bench.lake, COLUMNS | {"timestamp": kind})
    strays = [trade(2 + i, at) for i, at in enumerate(STRAYS)]
    rows = [row(t) | {"timestamp": moment(t.timestamp)} for t in (*good, *strays)]
    past = len(good) + 3
    theirs.add(table, [*rows[: len(good)], *rows[past:], rows[1] | {"timestamp": None}])
    theirs.add(table, rows[len(good) : past])
    lake = Lake(bench.lake.catalog, Source(table.name()))
    for each in TIMEFRAMES:
        rebuild(lake, bench.engine, each)
    lakes.assert_equal_to_trades(lake, good)
    more = trade(10, AT + DAY)
    theirs.add(table, [row(more) | {"timestamp": moment(more.timestamp)}])
    theirs.add(table, [row(strays[1]) | {"timestamp": moment(strays[1].timestamp)}])
    assert refresh(lake, bench.engine, MINUTE).plan.intervals == (MINUTE.window(more.timestamp),)
    lakes.assert_equal_to_trades(lake, [*good, more], [MINUTE])
    finding = {f.check: f for f in validate(lake, bench.engine, MINUTE, [Grain.DAY.partition(AT)])}
    assert finding["reconciles_with_trades"].ok
    assert (finding["trade_times"].ok, finding["trade_times"].failures) == (False, 7)
    assert "the first market is X A, with 6 from" in finding["trade_times"].note


def test_the_rows_that_are_left_out_are_named(bench: Bench) -> None:
    table = lakes.add_trades(bench.lake, [trade(0, AT), trade(1, STRAYS[1], "B"), trade(2, STRAYS[2], "B")])
    lakes.add_trades(bench.lake, [trade(3, LAST)])
    snapshot = table.refresh().metadata.current_snapshot_id
    assert snapshot is not None
    assert rows_outside(bench.engine, table, snapshot, trading_times()) == [
        Outside("X", "B", 2, "1969-12-31T23:59:59+00:00", "2008-12-31T23:59:59.999999+00:00"),
        Outside("X", "A", 1, "9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59.999999+00:00"),
    ]


def test_only_files_that_may_have_strays_are_read(sail: Bench) -> None:
    """Metadata rules the others out: without any of its files, a clean table is clean."""
    table = lakes.add_trades(sail.lake, [trade(0, AT)])
    for path in lakes.data_files(table):
        Path(path.removeprefix("file://")).unlink()
    snapshot = table.metadata.current_snapshot_id
    assert snapshot is not None
    assert rows_outside(sail.engine, table, snapshot, trading_times()) == []


def test_a_stray_row_is_not_the_newest_trade(lake: Lake) -> None:
    """Retention and frozen lines measure from it."""
    table = lakes.add_trades(lake, [trade(0, AT)])
    assert newest_trade(table) == AT
    lakes.add_trades(lake, [trade(1, LAST)])
    assert newest_trade(table.refresh()) == AT
    mixed = theirs.create(lake, COLUMNS, [row(trade(0, AT)), row(trade(1, LAST))])
    found = Lake(lake.catalog, Source(mixed.name())).trades()
    assert newest_trade(found) == AT


def test_rows_are_taken_in_once_their_time_has_come(sail: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were left out when their snapshot was refreshed, and nothing changed in their file since."""
    soon = trade(1, trading_times().end + timedelta(hours=1))
    table = lakes.add_trades(sail.lake, [trade(0, AT), soon])
    refresh(sail.lake, sail.engine, MINUTE)
    lakes.assert_equal_to_trades(sail.lake, [trade(0, AT)], [MINUTE])
    tomorrow = Interval(times.OLDEST, trading_times().end + DAY)
    real = times.trading_times
    for module in (times, files, changes):
        monkeypatch.setattr(module, "trading_times", lambda now=None: real(now) if now else tomorrow)
    added = trade(2, AT + DAY)
    table.append(lakes.trades_table(table, [added]))
    refresh(sail.lake, sail.engine, MINUTE)
    lakes.assert_equal_to_trades(sail.lake, [trade(0, AT), soon, added], [MINUTE])


def test_a_file_that_reaches_beyond_all_times_is_looked_at_once_a_day(
    sail: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bounds are open each time that a day becomes possible, though it may hold no row of that day."""
    file = [row(trade(0, trading_times().end - timedelta(hours=1))), row(trade(1, LAST))]
    table = theirs.create(sail.lake, COLUMNS, file)
    lake = Lake(sail.lake.catalog, Source(table.name()))
    refresh(lake, sail.engine, MINUTE)
    tomorrow = Interval(times.OLDEST, trading_times().end + DAY)
    real = times.trading_times
    for module in (times, files, changes, open_work, planning):
        monkeypatch.setattr(module, "trading_times", lambda now=None: real(now) if now else tomorrow)
    assert not planning.plan_refresh(lake.candles(MINUTE), lake.trades(), MINUTE).is_current
    assert refresh(lake, sail.engine, MINUTE).committed
    assert planning.plan_refresh(lake.candles(MINUTE), lake.trades(), MINUTE).is_current


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), LAST, LAST - DAY])
def test_no_window_or_partition_overflows(at: datetime) -> None:
    for grain in Grain:
        assert at in grain.partition(at) or grain.partition(at).end == LAST
        assert grain.partitions([grain.partition(at)]) == [grain.partition(at)]
        for far in (-(10**9), 10**9, grain.ordinal(at)):
            assert grain.interval_of(far).start < grain.interval_of(far).end
    for each in TIMEFRAMES:
        assert each.window(at).start == each.floor(at)
        span = each.window(at)
        assert each.align([span]) == [span] == [each.window(span.last)]


def test_possible_times_end_with_tomorrow() -> None:
    now = datetime(2024, 5, 17, 23, 59, 59, 999999, tzinfo=UTC)
    assert trading_times(now) == Interval(datetime(2009, 1, 1, tzinfo=UTC), datetime(2024, 5, 19, tzinfo=UTC))
    assert trading_times(now + MICROSECOND).end == datetime(2024, 5, 20, tzinfo=UTC)
    assert now + DAY in trading_times(now)  # as far ahead as ingestion takes trades
