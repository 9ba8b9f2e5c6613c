"""Windows before 1970, and rows whose time no trade can have."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

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
from k2_ohlcv.lake.metadata import dirty_windows, files, pending_changes, snapshot_diff
from k2_ohlcv.operations import planning
from k2_ohlcv.operations.reconcile import rebuild, refresh
from k2_ohlcv.operations.validate import validate
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.external_tables import COLUMNS
from k2_ohlcv_tests.support.table_history import current_snapshot_id
from k2_ohlcv_tests.support.time_forms import TIME_FORMS
from k2_ohlcv_tests.support.trades import make_trade

#: A few days ago. A file with a stray row has bounds that reach until tomorrow.
AT = possible_trade_times().end - 5 * DAY + timedelta(hours=12)
MINUTE = find_timeframe("1m")
#: Times that no trade can have.
STRAYS = [
    datetime.min.replace(tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2008, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2150, 1, 1, tzinfo=UTC),
    LAST_MOMENT,
]


def trade(number: int, at: datetime, symbol: str = "A") -> Trade:
    return make_trade(number, at, "1.5", number + 1, market=("X", symbol))


def row(trade: Trade) -> dict[str, object]:
    return {
        **vars(trade),
        "trade_id": int(trade.trade_id),
        "price": float(trade.price),
        "quantity": float(trade.quantity),
    }


def test_windows_before_1970_are_whole(each_engine: EngineLake) -> None:
    """Division toward zero would put the last second of 1969 into the first window of 1970."""
    moments = [EPOCH + n * timedelta(seconds=1) for n in (-86_401, -61, -60, -1, 0, 59)]
    rows = pl.DataFrame({"at": [to_micros(at) for at in moments]}).to_arrow()
    frame = each_engine.engine.spark.createDataFrame(rows).selectExpr("timestamp_micros(at) AS at")
    for timeframe in TIMEFRAMES:
        starts = (
            frame.select("at", rollup.window_start_of("at", timeframe).alias("start")).toArrow().to_pylist()
        )
        assert {r["at"]: r["start"] for r in starts} == {at: timeframe.floor(at) for at in moments}


@pytest.mark.parametrize("time_unit", TIME_FORMS)
def test_rows_of_impossible_times_are_left_out(each_engine: EngineLake, time_unit: str) -> None:
    """Rows without a time are left out too. All other rows are processed, also in the same market."""
    time_type, to_stored = TIME_FORMS[time_unit]
    good = [trade(0, AT), trade(1, AT + timedelta(minutes=1), "B")]
    table = external_tables.create_table(each_engine.lake, COLUMNS | {"timestamp": time_type})
    strays = [trade(2 + i, at) for i, at in enumerate(STRAYS)]
    rows = [row(t) | {"timestamp": to_stored(t.timestamp)} for t in (*good, *strays)]
    past = len(good) + 3
    external_tables.add_rows(table, [*rows[: len(good)], *rows[past:], rows[1] | {"timestamp": None}])
    external_tables.add_rows(table, rows[len(good) : past])
    lake = Lake(each_engine.lake.catalog, ExternalTradesConfig(table.name()))
    for timeframe in TIMEFRAMES:
        rebuild(lake, each_engine.engine, timeframe)
    lakes.assert_equal_to_trades(lake, good)
    more = trade(10, AT + DAY)
    external_tables.add_rows(table, [row(more) | {"timestamp": to_stored(more.timestamp)}])
    external_tables.add_rows(table, [row(strays[1]) | {"timestamp": to_stored(strays[1].timestamp)}])
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
    snapshot = current_snapshot_id(table.refresh())
    assert find_impossible_times(each_engine.engine, table, snapshot, possible_trade_times()) == [
        ImpossibleTimes("X", "B", 2, "1969-12-31T23:59:59+00:00", "2008-12-31T23:59:59.999999+00:00"),
        ImpossibleTimes("X", "A", 1, "9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59.999999+00:00"),
    ]


def test_only_files_that_may_have_impossible_times_are_read(sail: EngineLake) -> None:
    """Metadata rules out the other files. The check passes although they are deleted."""
    table = lakes.add_trades(sail.lake, [trade(0, AT)])
    for path in lakes.list_data_files(table):
        Path(path.removeprefix("file://")).unlink()
    assert find_impossible_times(sail.engine, table, current_snapshot_id(table), possible_trade_times()) == []


def test_a_stray_row_is_not_the_newest_trade(lake: Lake) -> None:
    """Retention and `frozen_before` are measured from the newest trade."""
    table = lakes.add_trades(lake, [trade(0, AT)])
    assert newest_trade_time(table) == AT
    lakes.add_trades(lake, [trade(1, LAST_MOMENT)])
    assert newest_trade_time(table.refresh()) == AT
    mixed = external_tables.create_table(lake, COLUMNS, [row(trade(0, AT)), row(trade(1, LAST_MOMENT))])
    external = Lake(lake.catalog, ExternalTradesConfig(mixed.name())).trades()
    assert newest_trade_time(external) == AT


def test_rows_are_read_once_their_time_is_possible(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first refresh left the row out. The next one reads it, although its file has not changed."""
    soon = trade(1, possible_trade_times().end + timedelta(hours=1))
    table = lakes.add_trades(sail.lake, [trade(0, AT), soon])
    refresh(sail.lake, sail.engine, MINUTE)
    lakes.assert_equal_to_trades(sail.lake, [trade(0, AT)], [MINUTE])
    tomorrow = Interval(times.OLDEST_TRADE, possible_trade_times().end + DAY)
    real = times.possible_trade_times
    for module in (times, files, snapshot_diff):
        monkeypatch.setattr(module, "possible_trade_times", lambda now=None: real(now) if now else tomorrow)
    added = trade(2, AT + DAY)
    table.append(lakes.to_trades_rows(table, [added]))
    refresh(sail.lake, sail.engine, MINUTE)
    lakes.assert_equal_to_trades(sail.lake, [trade(0, AT), soon, added], [MINUTE])


def test_a_file_with_a_time_beyond_tomorrow_is_read_again_each_day(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its bounds, the file may have rows of each day that becomes possible."""
    file = [row(trade(0, possible_trade_times().end - timedelta(hours=1))), row(trade(1, LAST_MOMENT))]
    table = external_tables.create_table(sail.lake, COLUMNS, file)
    lake = Lake(sail.lake.catalog, ExternalTradesConfig(table.name()))
    refresh(lake, sail.engine, MINUTE)
    tomorrow = Interval(times.OLDEST_TRADE, possible_trade_times().end + DAY)
    real = times.possible_trade_times
    for module in (times, files, snapshot_diff, dirty_windows, pending_changes, planning):
        monkeypatch.setattr(module, "possible_trade_times", lambda now=None: real(now) if now else tomorrow)
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
    for timeframe in TIMEFRAMES:
        assert timeframe.window(at).start == timeframe.floor(at)
        window = timeframe.window(at)
        assert timeframe.align([window]) == [window] == [timeframe.window(window.last)]


def test_possible_times_end_with_tomorrow() -> None:
    now = datetime(2024, 5, 17, 23, 59, 59, 999999, tzinfo=UTC)
    assert possible_trade_times(now) == Interval(
        datetime(2009, 1, 1, tzinfo=UTC), datetime(2024, 5, 19, tzinfo=UTC)
    )
    assert possible_trade_times(now + MICROSECOND).end == datetime(2024, 5, 20, tzinfo=UTC)
    assert now + DAY in possible_trade_times(now)  # ingestion takes trades as far ahead
