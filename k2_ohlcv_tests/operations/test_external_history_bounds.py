"""Old trades that the owner of an external table deletes: their candles stay if `K2_TRADES_KEPT` is set."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY, MICROSECOND
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.history_bounds import HistoryBounds
from k2_ohlcv.operations.reconcile import preview_refresh, rebuild, refresh
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.external_trades import NO_BOUNDS
from k2_ohlcv_tests.support.trades import make_trade

MINUTE, DAILY = find_timeframe("1m"), find_timeframe("1d")
BOTH = (MINUTE, DAILY)
FIRST = datetime(2024, 2, 25, 12, tzinfo=UTC)
KEPT = 5 * DAY


def trade(number: int, at: datetime) -> Trade:
    return make_trade(number, at, number % 7 + 1, 2, market=("X", "A"))


#: Ten days of one trade each. The bound is at noon of the fifth day, whose trade is not deleted.
TRADES = [trade(i, FIRST + i * DAY) for i in range(10)]
NEWEST_AT = TRADES[-1].timestamp
BOUND = NEWEST_AT - KEPT


def append(table: Table, trades: Iterable[Trade]) -> None:
    external_tables.add_rows(table, map(vars, trades))


def start_external_lake(
    each_engine: EngineLake, trades: Iterable[Trade], retention: timedelta | None = KEPT
) -> tuple[Lake, Table]:
    """An external table with one file per day, and candles of all its trades."""
    table = external_tables.create_table(each_engine.lake, external_tables.EXACT_COLUMNS)
    for trade_of_day in trades:
        append(table, [trade_of_day])
    unlimited = Lake(each_engine.lake.catalog, ExternalTradesConfig(table.name()))
    for timeframe in BOTH:
        refresh(unlimited, each_engine.engine, timeframe)
    assert unlimited.source is not None
    return Lake(unlimited.catalog, replace(unlimited.source, retention=retention)), table


def delete_old_trades(table: Table) -> list[Trade]:
    """Delete every trade before the bound, as the owner does."""
    table.refresh()
    table.delete(f"timestamp < '{BOUND.isoformat()}'")
    return [t for t in TRADES if t.timestamp < BOUND]


def read_frozen_bound(lake: Lake) -> datetime | None:
    return HistoryBounds.from_tables(lake.candles(MINUTE), lake.trades(), MINUTE).frozen_before


def test_candles_of_deleted_old_trades_stay(sail: EngineLake) -> None:
    """Refresh counts them as skipped windows, and computes the windows after the bound."""
    lake, table = start_external_lake(sail, TRADES)
    deleted = delete_old_trades(table)
    late = [trade(100, FIRST), trade(101, NEWEST_AT - DAY)]
    append(table, late)
    for timeframe in BOTH:
        report = refresh(lake, sail.engine, timeframe)
        assert report.plan.skipped > 0
        assert report.counts.removed == 0
        assert report.watermark_moved
    assert len(deleted) == 4
    lakes.assert_equal_to_trades(lake, [*TRADES, late[1]], BOTH)


def test_without_the_setting_old_candles_are_removed(sail: EngineLake) -> None:
    """Trades that the owner deletes are then deleted trades like any others."""
    lake, table = start_external_lake(sail, TRADES, retention=None)
    delete_old_trades(table)
    for timeframe in BOTH:
        assert refresh(lake, sail.engine, timeframe).plan.skipped == 0
    lakes.assert_equal_to_trades(lake, [t for t in TRADES if t.timestamp >= BOUND], BOTH)


def test_a_full_rebuild_keeps_frozen_candles(sail: EngineLake) -> None:
    """A rebuild, and a refresh without a watermark, remove no candle."""
    lake, table = start_external_lake(sail, TRADES)
    delete_old_trades(table)
    for timeframe in BOTH:
        assert rebuild(lake, sail.engine, timeframe).counts.removed == 0
        table_history.forget_watermark(lake.candles(timeframe))
        report = refresh(lake, sail.engine, timeframe)
        assert report.plan.reason
        assert (report.counts.removed, report.plan.skipped > 0) == (0, True)
    lakes.assert_equal_to_trades(lake, TRADES, BOTH)


def test_a_rebuild_of_a_frozen_day_names_the_setting(sail: EngineLake) -> None:
    """The error names `K2_TRADES_KEPT`."""
    lake, table = start_external_lake(sail, TRADES)
    delete_old_trades(table)
    with pytest.raises(UsageError, match=r"2024-02-25 are frozen: .*K2_TRADES_KEPT"):
        rebuild(lake, sail.engine, MINUTE, [Grain.DAY.partition(FIRST)])
    lakes.assert_equal_to_trades(lake, TRADES, BOTH)


def test_frozen_before_follows_the_newest_trade(sail: EngineLake) -> None:
    """A trade with a time in the future freezes nothing."""
    lake, table = start_external_lake(sail, TRADES)
    assert read_frozen_bound(lake) == BOUND
    append(table, [trade(100, NEWEST_AT + DAY)])
    assert read_frozen_bound(lake) == BOUND + DAY
    append(table, [trade(101, datetime.now(UTC) + 400 * DAY)])
    assert read_frozen_bound(lake) == BOUND + DAY


def test_frozen_before_never_decreases(sail: EngineLake) -> None:
    """After a rollback by the owner, windows that were frozen stay frozen."""
    lake, table = start_external_lake(sail, TRADES)
    delete_old_trades(table)
    table.delete(f"timestamp > '{(NEWEST_AT - 3 * DAY + MICROSECOND).isoformat()}'")
    assert read_frozen_bound(lake) == BOUND
    for timeframe in BOTH:
        refresh(lake, sail.engine, timeframe)
        watermark = table_history.read_watermark(lake.candles(timeframe))
        assert watermark.latest_trade_at == NEWEST_AT
    assert read_frozen_bound(lake) == BOUND
    with pytest.raises(UsageError, match="frozen"):
        rebuild(lake, sail.engine, MINUTE, [Grain.DAY.partition(FIRST + 3 * DAY)])
    lakes.assert_equal_to_trades(lake, [t for t in TRADES if t.timestamp <= NEWEST_AT - 3 * DAY], BOTH)


@pytest.mark.parametrize("corrected", [100 * DAY, None])
def test_a_longer_setting_repairs_a_short_one(sail: EngineLake, corrected: timedelta | None) -> None:
    """Windows that changed while they were frozen are computed. Candles without trades stay."""
    lake, table = start_external_lake(sail, TRADES)
    table.refresh()
    table.delete(f"timestamp < '{(FIRST + DAY).isoformat()}'")
    late = trade(100, FIRST + 2 * DAY)
    append(table, [late])
    for timeframe in BOTH:
        assert refresh(lake, sail.engine, timeframe).plan.skipped > 0
    assert lake.source is not None
    lake = Lake(lake.catalog, replace(lake.source, retention=corrected))
    for timeframe in BOTH:
        assert not preview_refresh(lake, timeframe).is_current
        refresh(lake, sail.engine, timeframe)
        assert preview_refresh(lake, timeframe).is_current
    lakes.assert_equal_to_trades(lake, [*TRADES, late], [MINUTE])


def test_a_very_long_setting_freezes_nothing(sail: EngineLake) -> None:
    """A bound before the earliest possible time is no bound."""
    lake, _ = start_external_lake(sail, TRADES, retention=timedelta(days=999_999))
    assert read_frozen_bound(lake) is None


def test_the_external_tables_own_bound_counts(sail: EngineLake) -> None:
    """An external table may belong to another K2 lake and have its own `k2.frozen-before`."""
    lake, table = start_external_lake(sail, TRADES, retention=None)
    assert read_frozen_bound(lake) is None
    table_history.set_properties(table, {"k2.frozen-before": (BOUND + DAY).isoformat()})
    assert read_frozen_bound(lake) == BOUND + DAY
    assert lake.source is not None
    assert read_frozen_bound(Lake(lake.catalog, replace(lake.source, retention=KEPT))) == BOUND + DAY


def test_the_latest_trade_of_another_table_is_ignored(sail: EngineLake) -> None:
    """After a change to an older external table, its own trades decide."""
    lake, _ = start_external_lake(sail, TRADES)
    older = external_tables.create_table(sail.lake, external_tables.EXACT_COLUMNS)
    append(older, [replace(TRADES[0], timestamp=FIRST - 100 * DAY)])
    assert lake.source is not None
    assert (
        read_frozen_bound(Lake(lake.catalog, replace(lake.source, identifier=older.name())))
        == FIRST - 100 * DAY - KEPT
    )


def test_files_without_bounds_reach_to_now(sail: EngineLake) -> None:
    """Without column statistics the newest trade may be as new as the present."""
    table = external_tables.create_table(
        sail.lake, external_tables.EXACT_COLUMNS, map(vars, TRADES), properties=NO_BOUNDS
    )
    bound = read_frozen_bound(Lake(sail.lake.catalog, ExternalTradesConfig(table.name(), retention=KEPT)))
    assert bound is not None
    assert timedelta(0) <= datetime.now(UTC) - KEPT - bound < timedelta(minutes=10)
