"""Plans of a rebuild and a refresh, without an engine."""

from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.fingerprint import trades_fingerprint
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE
from k2_ohlcv.lake.watermark import RefusedWindow, Watermark
from k2_ohlcv.operations.plan import Plan
from k2_ohlcv.operations.planning import MAX_INTERVALS, plan_rebuild, plan_refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
MIDNIGHT = datetime(2024, 2, 28, tzinfo=UTC)


def trade(minute: int) -> Trade:
    """A trade some minutes after noon."""
    return make_trade(str(minute), AT + timedelta(minutes=minute), market=("X", "Y"))


def add(lake: Lake, *minutes: int) -> int:
    """Append trades. Returns the trades snapshot."""
    return table_history.current_snapshot_id(lakes.add_trades(lake, map(trade, minutes)))


def window(minute: int) -> Interval:
    return MINUTE.window(trade(minute).timestamp)


def day(number: int) -> Interval:
    return Interval(MIDNIGHT + number * DAY, MIDNIGHT + (number + 1) * DAY)


def commit_marked_candles(lake: Lake, watermark: Watermark) -> None:
    """Commit candles of two trades with a watermark."""
    table = lake.writable_candles(MINUTE)
    now = datetime(2024, 6, 1, tzinfo=UTC)
    trades = [trade(0), trade(1440)]
    lakes.commit_candles(table, MINUTE, trades, now, watermark.properties(), watermark.summary())


def tables(lake: Lake) -> tuple[Table, Table]:
    return lake.candles(MINUTE), lake.trades()


def freeze(lake: Lake, bound: datetime) -> None:
    table_history.freeze_trades(lake.writable_trades(), bound)


@pytest.fixture
def current_lake(lake: Lake) -> Lake:
    """Trades on two days, and candles that equal them."""
    snapshot = add(lake, 0, 1440)
    commit_marked_candles(
        lake,
        Watermark(snapshot, trade(1440).timestamp, trades_fingerprint(lake.trades())).with_reconciled([], ()),
    )
    return lake


def test_without_new_trades_a_table_is_current(current_lake: Lake) -> None:
    """The plan reads no file and names the trades snapshot."""
    plan = plan_refresh(*tables(current_lake), MINUTE)
    snapshot = current_lake.trades().metadata.current_snapshot_id
    assert (plan.is_current, plan.intervals, plan.reason) == (True, (), None)
    assert (plan.trades_from, plan.trades_to) == (snapshot, snapshot)
    assert (plan.files_changed, plan.files_read, plan.skipped, plan.changed_behind_bounds) == (0, 0, 0, ())
    assert plan.lines() == [f"{MINUTE.table}: up to date with trades snapshot {snapshot}: nothing to do."]


def test_a_refresh_reads_the_windows_that_changed(current_lake: Lake) -> None:
    """New trades make their windows dirty, and the plan says which and from which files."""
    before = current_lake.trades().metadata.current_snapshot_id
    after = add(current_lake, 3, 9)
    plan = plan_refresh(*tables(current_lake), MINUTE)
    assert not plan.is_current
    assert plan.intervals == (window(3), window(9))
    assert (plan.trades_from, plan.trades_to) == (before, after)
    assert plan.partitions == [day(0)]
    assert plan.days == (day(0),)
    # The new file is read once for its windows, and again for its trades.
    assert (plan.files_changed, plan.files_read) == (1, 2)
    assert (plan.start.snapshot_id, plan.start.open_intervals) == (after, plan.intervals)
    assert plan.start.latest_trade_at == trade(1440).timestamp
    assert plan.start.complete == before
    assert plan.lines() == [
        f"{MINUTE.table}: 1 trades files differ from those of snapshot {before}.",
        "  2 windows of 1 markets in 2 intervals of 1 partitions are made equal to trades snapshot "
        f"{after}, reading 2 trades files:",
        f"    {window(3)}",
        f"    {window(9)}",
    ]
    assert plan.as_json() == {
        "table": MINUTE.table,
        "timeframe": "1m",
        "from": before,
        "to": after,
        "dirty": [[i.start.isoformat(), i.end.isoformat()] for i in plan.intervals],
        "partitions": ["2024-02-28"],
        "market_windows": 2,
        "reason": None,
        "files_changed": 1,
        "files_read": 2,
        "behind": 0,
        "damaged": [],
    }


def test_the_first_refresh_computes_every_window(lake: Lake) -> None:
    """Without a watermark, the span of all trades is dirty."""
    after = add(lake, 0, 1440)
    plan = plan_refresh(*tables(lake), MINUTE)
    assert plan.reason == "the table has no watermark yet"
    assert plan.intervals == (Interval(day(0).start, day(1).end),)
    assert (plan.trades_from, plan.trades_to, plan.files_read, plan.is_current) == (None, after, 2, False)
    assert (plan.start.complete, plan.start.open_intervals) == (None, plan.intervals)
    assert plan.start.fingerprint == trades_fingerprint(lake.trades())


def test_without_trades_a_table_is_current(lake: Lake) -> None:
    """The plan has no interval and no watermark to commit."""
    lake.writable_trades()
    plan = plan_refresh(*tables(lake), MINUTE)
    assert plan.is_current
    assert (plan.intervals, plan.start) == ((), None)


def test_many_scattered_windows_are_joined(current_lake: Lake) -> None:
    """The number of intervals is bounded."""
    add(current_lake, *range(2, 2 + 3 * MAX_INTERVALS, 3))
    assert len(plan_refresh(*tables(current_lake), MINUTE).intervals) == MAX_INTERVALS
    add(current_lake, 1000)
    plan = plan_refresh(*tables(current_lake), MINUTE)
    assert len(plan.intervals) == MAX_INTERVALS
    assert plan.lines()[-1] == f"    and {MAX_INTERVALS - 10} more"


def test_open_windows_of_an_earlier_run_are_planned(lake: Lake) -> None:
    """Refused windows before `frozen_before` are forgotten."""
    snapshot = add(lake, 0, 1440)
    refused = tuple(RefusedWindow("low_price", "X", "Y", window(m)) for m in (0, 1440))
    watermark = Watermark(snapshot, None, trades_fingerprint(lake.trades()), complete=snapshot)
    commit_marked_candles(lake, watermark.with_open([window(0), window(1440)]).with_reconciled([], refused))
    plan = plan_refresh(*tables(lake), MINUTE)
    assert plan.intervals == (window(0), window(1440))
    assert (plan.is_current, plan.skipped) == (False, 0)
    assert "an earlier run left windows open" in plan.lines()[0]
    assert plan.start.refused == refused
    freeze(lake, day(1).start)
    plan = plan_refresh(*tables(lake), MINUTE)
    assert (plan.intervals, plan.skipped) == ((window(1440),), 1)
    assert plan.lines()[-1] == "  1 windows are before frozen_before or expired_before and stay unchanged."
    assert plan.properties == ((FROZEN_BEFORE, day(1).start.isoformat()),)
    assert (plan.start.refused, plan.start.frozen_before) == (refused[1:], day(1).start)


def test_a_rebuild_plans_whole_partitions_with_data(current_lake: Lake) -> None:
    """A requested partition without trades and candles is left out."""
    plan = plan_rebuild(*tables(current_lake), MINUTE, [window(0), window(-5000)])
    assert (plan.intervals, plan.files_read) == ((day(0),), 1)
    assert plan.days == (Interval(day(0).start, day(1).end),)
    assert plan.trades_from == plan.trades_to == current_lake.trades().metadata.current_snapshot_id
    assert plan.start.open_intervals == ()
    assert plan_rebuild(*tables(current_lake), MINUTE, None).partitions == [day(0), day(1)]


def test_a_rebuild_leaves_other_dirty_windows_open(current_lake: Lake) -> None:
    """Dirty windows outside the requested partitions stay open in the watermark."""
    add(current_lake, 3, 1443)
    plan = plan_rebuild(*tables(current_lake), MINUTE, [day(0)])
    assert plan.start.open_intervals == (window(3), window(1443))


def test_a_rebuild_skips_frozen_windows(current_lake: Lake) -> None:
    """Windows before `frozen_before` are counted as skipped."""
    freeze(current_lake, AT)
    plan = plan_rebuild(*tables(current_lake), MINUTE, None)
    assert plan.intervals == (Interval(AT, day(1).end),)
    assert plan.skipped == 720


def test_an_external_change_before_frozen_before_is_damage(current_lake: Lake) -> None:
    """The trades are deleted, so the plan names the partition and does not compute it."""
    freeze(current_lake, day(1).start)
    table = current_lake.writable_candles(MINUTE)
    table.delete(f"window_start < '{day(1).start.isoformat()}'")
    plan = plan_refresh(*tables(current_lake), MINUTE)
    assert (plan.intervals, plan.changed_behind_bounds) == ((), (day(0),))
    assert plan.as_json()["damaged"] == ["2024-02-28"]
    assert (
        f"another writer changed {MINUTE.table} in 2024-02-28. The trades there have expired"
        in plan.changed_behind_bounds_text
    )
    assert plan.lines()[-1] == f"  {plan.changed_behind_bounds_text}."


def test_a_plan_prints_ten_intervals() -> None:
    """The rest is printed as a count."""
    plans = [tuple(map(window, range(0, 2 * n, 2))) for n in (10, 11)]
    shown = [len(Plan(MINUTE, 1, 2, i, WindowSelection(i), (), None).lines()) for i in plans]
    assert shown == [12, 13]
