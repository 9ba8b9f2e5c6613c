"""What a rebuild and a refresh plan to do, without an engine."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.fingerprint import trades_fingerprint
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE
from k2_ohlcv.lake.watermark import RefusedWindow, Watermark
from k2_ohlcv.operations.plan import MAX_INTERVALS, Plan, plan_rebuild, plan_refresh
from k2_ohlcv_tests.support import lakes, table_history

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
MIDNIGHT = datetime(2024, 2, 28, tzinfo=UTC)


def trade(minute: int) -> Trade:
    """A trade so many minutes after noon."""
    return Trade("X", "Y", str(minute), AT + timedelta(minutes=minute), Decimal(100), Decimal(1))


def add(lake: Lake, *minutes: int) -> int:
    return table_history.current_snapshot_id(lakes.add_trades(lake, map(trade, minutes)))


def window(minute: int) -> Interval:
    return MINUTE.window(trade(minute).timestamp)


def day(number: int) -> Interval:
    return Interval(MIDNIGHT + number * DAY, MIDNIGHT + (number + 1) * DAY)


def marked(lake: Lake, mark: Watermark) -> None:
    """Candles of the first two trades, under a watermark."""
    table = lake.writable_candles(MINUTE)
    now = datetime(2024, 6, 1, tzinfo=UTC)
    some = [trade(0), trade(1440)]
    lakes.commit_candles(table, MINUTE, some, now, mark.properties(), mark.summary())


def tables(lake: Lake) -> tuple[Table, Table]:
    return lake.candles(MINUTE), lake.trades()


def freeze(lake: Lake, line: datetime) -> None:
    table_history.freeze_trades(lake.writable_trades(), line)


@pytest.fixture
def done(lake: Lake) -> Lake:
    """Trades on two days, and candles that are equal to them."""
    snapshot = add(lake, 0, 1440)
    marked(
        lake,
        Watermark(snapshot, trade(1440).timestamp, trades_fingerprint(lake.trades())).with_reconciled([], ()),
    )
    return lake


def test_where_nothing_came_there_is_nothing_to_do(done: Lake) -> None:
    plan = plan_refresh(*tables(done), MINUTE)
    snapshot = done.trades().metadata.current_snapshot_id
    assert (plan.is_current, plan.intervals, plan.reason) == (True, (), None)
    assert (plan.trades_from, plan.trades_to) == (snapshot, snapshot)
    assert (plan.files_changed, plan.files_read, plan.skipped, plan.changed_behind_bounds) == (0, 0, 0, ())
    assert plan.lines() == [
        f"{MINUTE.table}: up to date with trades snapshot {snapshot}: nothing to do.",
    ]


def test_a_refresh_reads_the_windows_that_changed(done: Lake) -> None:
    before = done.trades().metadata.current_snapshot_id
    after = add(done, 3, 9)
    plan = plan_refresh(*tables(done), MINUTE)
    assert not plan.is_current
    assert plan.intervals == (window(3), window(9))
    assert (plan.trades_from, plan.trades_to) == (before, after)
    assert plan.partitions == [day(0)]
    assert plan.days == (day(0),)
    # The file that came is read for its windows, and again for its trades.
    assert (plan.files_changed, plan.files_read) == (1, 2)
    assert plan.start is not None
    assert (plan.start.snapshot_id, plan.start.open_intervals) == (after, plan.intervals)
    assert plan.start.latest_trade_at == trade(1440).timestamp
    assert plan.start.complete == before
    assert plan.lines() == [
        f"{MINUTE.table}: 1 trades files differ from those of snapshot {before}.",
        f"  2 intervals in 1 partitions are made equal to trades snapshot {after}, reading 2 trades files:",
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
        "reason": None,
        "files_changed": 1,
        "files_read": 2,
        "behind": 0,
        "damaged": [],
    }


def test_the_first_refresh_makes_everything(lake: Lake) -> None:
    after = add(lake, 0, 1440)
    plan = plan_refresh(*tables(lake), MINUTE)
    assert plan.reason == "the table has no watermark yet"
    assert plan.intervals == (Interval(day(0).start, day(1).end),)
    assert (plan.trades_from, plan.trades_to, plan.files_read, plan.is_current) == (None, after, 2, False)
    assert plan.start is not None
    assert (plan.start.complete, plan.start.open_intervals) == (None, plan.intervals)
    assert plan.start.fingerprint == trades_fingerprint(lake.trades())


def test_where_there_is_nothing_at_all_the_table_is_current(lake: Lake) -> None:
    lake.writable_trades()
    plan = plan_refresh(*tables(lake), MINUTE)
    assert plan.is_current
    assert (plan.intervals, plan.start) == ((), None)


def test_many_scattered_windows_are_joined(done: Lake) -> None:
    add(done, *range(2, 2 + 3 * MAX_INTERVALS, 3))
    assert len(plan_refresh(*tables(done), MINUTE).intervals) == MAX_INTERVALS
    add(done, 1000)
    plan = plan_refresh(*tables(done), MINUTE)
    assert len(plan.intervals) == MAX_INTERVALS
    assert plan.lines()[-1] == f"    and {MAX_INTERVALS - 10} more"


def test_what_is_open_since_an_earlier_run_is_done_too(lake: Lake) -> None:
    """Of its refused windows those are forgotten that have come to lie behind a line."""
    snapshot = add(lake, 0, 1440)
    refused = tuple(RefusedWindow("low_price", "X", "Y", window(m)) for m in (0, 1440))
    mark = Watermark(snapshot, None, trades_fingerprint(lake.trades()), complete=snapshot)
    marked(lake, mark.with_open([window(0), window(1440)]).with_reconciled([], refused))
    plan = plan_refresh(*tables(lake), MINUTE)
    assert plan.intervals == (window(0), window(1440))
    assert (plan.is_current, plan.skipped) == (False, 0)
    assert "windows are open since an earlier run" in plan.lines()[0]
    assert plan.start is not None
    assert plan.start.refused == refused
    freeze(lake, day(1).start)
    plan = plan_refresh(*tables(lake), MINUTE)
    assert (plan.intervals, plan.skipped) == ((window(1440),), 1)
    assert plan.lines()[-1] == "  1 windows are past retention and stay as they are."
    assert plan.properties == ((FROZEN_BEFORE, day(1).start.isoformat()),)
    assert plan.start is not None
    assert (plan.start.refused, plan.start.frozen_before) == (refused[1:], day(1).start)


def test_a_rebuild_takes_whole_partitions_that_have_something(done: Lake) -> None:
    plan = plan_rebuild(*tables(done), MINUTE, [window(0), window(-5000)])
    assert (plan.intervals, plan.files_read) == ((day(0),), 1)
    assert plan.days == (Interval(day(0).start, day(1).end),)
    assert plan.trades_from == plan.trades_to == done.trades().metadata.current_snapshot_id
    assert plan.start is not None
    assert plan.start.open_intervals == ()
    assert plan_rebuild(*tables(done), MINUTE, None).partitions == [day(0), day(1)]


def test_a_rebuild_leaves_open_what_is_dirty_elsewhere(done: Lake) -> None:
    """What is empty today is equal already: a day that was asked for and has nothing is not open."""
    add(done, 3, 1443)
    plan = plan_rebuild(*tables(done), MINUTE, [day(0)])
    assert plan.start is not None
    assert plan.start.open_intervals == (window(3), window(1443))


def test_a_rebuild_behind_the_frozen_line_makes_what_is_ahead(done: Lake) -> None:
    freeze(done, AT)
    plan = plan_rebuild(*tables(done), MINUTE, None)
    assert plan.intervals == (Interval(AT, day(1).end),)
    assert plan.skipped == 720


def test_what_another_writer_touched_behind_the_line_is_damaged(done: Lake) -> None:
    """Its trades are gone. It is named, and not computed again."""
    freeze(done, day(1).start)
    table = done.writable_candles(MINUTE)
    table.delete(f"window_start < '{day(1).start.isoformat()}'")
    plan = plan_refresh(*tables(done), MINUTE)
    assert (plan.intervals, plan.changed_behind_bounds) == ((), (day(0),))
    assert plan.as_json()["damaged"] == ["2024-02-28"]
    assert (
        f"another writer changed {MINUTE.table} in 2024-02-28, where the trades are gone"
        in plan.changed_behind_bounds_text
    )
    assert plan.lines()[-1] == f"  {plan.changed_behind_bounds_text}."


def test_of_many_intervals_ten_are_shown() -> None:
    shown = [
        len(Plan(MINUTE, 1, 2, tuple(map(window, range(0, 2 * n, 2))), (), None).lines()) for n in (10, 11)
    ]
    assert shown == [12, 13]
