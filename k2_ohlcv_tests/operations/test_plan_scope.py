"""What a plan covers: days to read, candles without trades, windows behind a bound. Without an engine."""

from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.fingerprint import trades_fingerprint
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.planning import plan_rebuild, plan_refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
DAYS = [Grain.DAY.partition(AT + number * DAY) for number in range(4)]


def trade(day: int, minute: int = 0) -> Trade:
    return make_trade(f"{day}-{minute}", AT + day * DAY + timedelta(minutes=minute), market=("X", "Y"))


def window(day: int, minute: int = 0) -> Interval:
    return MINUTE.window(trade(day, minute).timestamp)


def tables(lake: Lake) -> tuple[Table, Table]:
    return lake.candles(MINUTE), lake.trades()


@pytest.fixture
def current(lake: Lake) -> Lake:
    """Trades on the first and the third day, and candles that equal them."""
    trades = [trade(0), trade(2)]
    snapshot = table_history.current_snapshot_id(lakes.add_trades(lake, trades))
    mark = Watermark(snapshot, trades[-1].timestamp, trades_fingerprint(lake.trades())).with_reconciled(
        [], ()
    )
    lakes.commit_candles(
        lake.writable_candles(MINUTE), MINUTE, trades, AT + 9 * DAY, mark.properties(), mark.summary()
    )
    return lake


def test_the_days_of_every_dirty_window_are_read(current: Lake) -> None:
    """A file that overlaps one of several dirty windows is read. Days without a dirty window are not."""
    lakes.add_trades(current, [trade(0, 3), trade(3, 3)])
    plan = plan_refresh(*tables(current), MINUTE)
    assert plan.intervals == (window(0, 3), window(3, 3))
    assert plan.days == (DAYS[0], DAYS[3])


@pytest.mark.parametrize("is_rebuild", [True, False])
def test_candles_without_trades_are_planned(current: Lake, is_rebuild: bool) -> None:
    """A whole rebuild, and a refresh without a watermark, remove candles whose trades are gone."""
    current.writable_trades().delete(f"timestamp >= '{DAYS[2].start.isoformat()}'")
    table_history.forget_watermark(current.candles(MINUTE))
    candles, trades = tables(current)
    plan = (
        plan_rebuild(candles, trades, MINUTE, None) if is_rebuild else plan_refresh(candles, trades, MINUTE)
    )
    assert plan.intervals == (DAYS[0], DAYS[2])
    assert plan.days == (DAYS[0],)


def test_a_rebuild_leaves_no_window_before_a_bound_open(current: Lake) -> None:
    """No run can compute such a window, so the table would never be complete."""
    lakes.add_trades(current, [trade(0, 3), trade(2, 3)])
    table_history.freeze_trades(current.writable_trades(), DAYS[1].start)
    plan = plan_rebuild(*tables(current), MINUTE, [DAYS[2]])
    assert plan.start is not None
    assert plan.start.open_intervals == (window(2, 3),)
    assert (plan.intervals, plan.skipped) == ((DAYS[2],), 0)


def test_touched_windows_before_a_bound_are_forgotten(current: Lake) -> None:
    """Another writer's change is reported by this plan, and the next watermark names it no longer."""
    table = current.writable_candles(MINUTE)
    for number in (0, 2):
        table.refresh()
        table.delete(f"window_date == '{AT + number * DAY:%Y-%m-%d}'")
    table_history.freeze_trades(current.writable_trades(), DAYS[1].start)
    for plan in (plan_refresh(*tables(current), MINUTE), plan_rebuild(*tables(current), MINUTE, None)):
        assert plan.changed_behind_bounds == (DAYS[0],)
        assert plan.start is not None
        assert (plan.start.open_intervals, plan.start.touched) == ((DAYS[2],), (DAYS[2],))
