"""Refresh after compactions, rollbacks and expiry of the trades table."""

from datetime import timedelta

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE, refresh_all, start_week, trade_windows
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade


def test_compaction_makes_no_window_dirty(sail: EngineLake) -> None:
    """The watermark changes, and no trades file is read."""
    start_week(sail)
    table = sail.lake.trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    assert not preview_refresh(sail.lake, MINUTE).is_current, "the watermark must change"
    for report in refresh_all(sail):
        assert report.plan.intervals == ()
        assert report.plan.files_read == 0
        assert report.watermark_moved
    assert preview_refresh(sail.lake, MINUTE).is_current


def test_trades_appended_before_a_compaction_are_found(sail: EngineLake) -> None:
    """Only the windows of the appended trades are dirty."""
    trades = start_week(sail)
    new_trades = [make_trade(1000, AT + timedelta(minutes=7))]
    lakes.add_trades(sail.lake, new_trades)
    table = sail.lake.trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    lakes.add_trades(sail.lake, [make_trade(1001, AT + timedelta(minutes=70))])
    report = sail.refresh(MINUTE)
    assert list(report.plan.intervals) == trade_windows(
        [*new_trades, make_trade(1001, AT + timedelta(minutes=70))], MINUTE
    )
    refresh_all(sail)
    sail.assert_equal_to_trades([*trades, *new_trades, make_trade(1001, AT + timedelta(minutes=70))])


def test_trades_deleted_after_a_compaction_are_found(sail: EngineLake) -> None:
    """Candles of the deleted trades change."""
    start_week(sail)
    table = sail.lake.trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    table = sail.lake.trades()
    table_history.rewrite_files(table, list(table.scan().plan_files()), lambda rows: rows[10:])
    refresh_all(sail)
    sail.assert_equal_to_trades(lakes.all_trades(sail.lake))


def test_trades_deleted_around_a_compaction_are_found(sail: EngineLake) -> None:
    """One row is deleted before it and one after. The second row's file is in neither compared snapshot."""
    start_week(sail)
    table = sail.lake.trades()

    def drop_a_row() -> None:
        first = min(table.scan().plan_files(), key=lambda task: task.file.partition[0])
        table_history.rewrite_files(table, [first], lambda rows: rows.sort("timestamp").slice(1))

    drop_a_row()
    table_history.compact_files(table, list(table.scan().plan_files()))
    drop_a_row()
    refresh_all(sail)
    sail.assert_equal_to_trades(lakes.all_trades(sail.lake))


def test_a_rollback_of_trades_is_followed(sail: EngineLake) -> None:
    """The current snapshot is no descendant of the watermark's. Only windows that differ are computed."""
    trades = start_week(sail)
    earlier = table_history.current_snapshot_id(sail.lake.trades())
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    refresh_all(sail)
    table_history.roll_back(sail.lake.trades(), earlier)
    lakes.add_trades(sail.lake, [make_trade(1001, AT + DAY)])
    report = sail.refresh(MINUTE)
    assert report.plan.reason is None
    assert list(report.plan.intervals) == trade_windows(
        [make_trade(1000, AT), make_trade(1001, AT + DAY)], MINUTE
    )
    refresh_all(sail)
    sail.assert_equal_to_trades([*trades, make_trade(1001, AT + DAY)])


def test_an_expired_snapshot_in_the_middle_loses_nothing(sail: EngineLake) -> None:
    """A snapshot between watermark and present is not needed for the comparison."""
    trades = start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    middle = table_history.current_snapshot_id(sail.lake.trades())
    lakes.add_trades(sail.lake, [make_trade(1001, AT + DAY)])
    table_history.expire_snapshot(sail.lake.trades(), middle)
    report = sail.refresh(MINUTE)
    assert report.plan.reason is None
    assert list(report.plan.intervals) == trade_windows(
        [make_trade(1000, AT), make_trade(1001, AT + DAY)], MINUTE
    )
    refresh_all(sail)
    sail.assert_equal_to_trades([*trades, make_trade(1000, AT), make_trade(1001, AT + DAY)])


def test_an_expired_watermark_makes_every_window_dirty(sail: EngineLake) -> None:
    """The report has the reason, and only the changed candle is written."""
    trades = start_week(sail)
    before = table_history.current_snapshot_id(sail.lake.trades())
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    table_history.expire_snapshot(sail.lake.trades(), before)
    report = sail.refresh(MINUTE)
    assert "has expired" in (report.plan.reason or "")
    assert (report.counts.changed, report.counts.unchanged) == (1, len(aggregate(trades, MINUTE)) - 1)
    sail.assert_equal_to_trades([*trades, make_trade(1000, AT)], MINUTE)


def test_a_replaced_trades_table_makes_every_window_dirty(sail: EngineLake) -> None:
    """Candles of days that the new table lacks are removed."""
    start_week(sail)
    sail.lake.catalog.drop_table(("market_data", "gold_crypto_trades"))
    new_trades = [make_trade(1, AT + 9 * DAY)]
    lakes.add_trades(sail.lake, new_trades)
    refresh_all(sail)
    sail.assert_equal_to_trades(new_trades)
