"""Retention of trades: what is dropped, how candles freeze, and refreshes at the same time."""

from datetime import timedelta

import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.lake.commit import TableCommit
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE, read_bound
from k2_ohlcv.lake.maintenance import partition_drops
from k2_ohlcv.lake.schemas import TRADES_SPEC
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv.operations.retention import retention
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import DAILY, MINUTE
from k2_ohlcv_tests.support.crash import interrupt_windows
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.forty_days import (
    END,
    EXPIRE_ALL,
    FIRST_DAY,
    FORTY_DAYS,
    apply_retention,
    assert_candles_kept,
    numbered_trade,
    refresh_tables,
    retention_policy,
    table_report,
)


def test_snapshots_from_the_oldest_watermark_on_stay(forty_days: EngineLake) -> None:
    """Once every table is refreshed, older snapshots expire."""
    watermark = table_history.current_snapshot_id(forty_days.lake.trades())
    for i in range(3):
        lakes.add_trades(forty_days.lake, [numbered_trade(10_000 + i, END - DAY)])
        forty_days.refresh(MINUTE)
    report = apply_retention(forty_days.lake, **EXPIRE_ALL)
    assert table_report(report, "trades").snapshots_expired == 0
    assert len(forty_days.lake.trades().snapshots()) == 4
    assert preview_refresh(forty_days.lake, DAILY).reason is None
    assert Watermark.from_table(forty_days.lake.candles(DAILY)).snapshot_id == watermark
    refresh_tables(forty_days)
    assert table_report(apply_retention(forty_days.lake, **EXPIRE_ALL), "trades").snapshots_expired == 3
    assert len(forty_days.lake.trades().snapshots()) == 1
    assert len(forty_days.lake.candles(MINUTE).snapshots()) == 1


def test_expired_trades_freeze_their_candles(forty_days: EngineLake) -> None:
    """Refresh does not treat expired trades as deleted, and their candles stay unchanged."""
    report = apply_retention(forty_days.lake, K2_RETENTION_TRADES="20d", **EXPIRE_ALL)
    trades_report = table_report(report, "trades")
    assert trades_report.partitions
    assert trades_report.blocked == ()
    assert read_bound(forty_days.lake.trades(), FROZEN_BEFORE) == trades_report.cutoff
    for timeframe in TIMEFRAMES:
        refreshed = forty_days.refresh(timeframe)
        assert (refreshed.plan.intervals, refreshed.plan.skipped, refreshed.plan.reason) == ((), 0, None)
    forty_days.assert_equal_to_trades(FORTY_DAYS)
    with pytest.raises(UsageError, match="frozen"):
        forty_days.rebuild(MINUTE, [Grain.DAY.partition(FIRST_DAY)])
    second_run = apply_retention(forty_days.lake, K2_RETENTION_TRADES="20d", **EXPIRE_ALL)
    assert table_report(second_run, "trades").partitions == ()


def test_frozen_candles_survive_a_new_trades_table(forty_days: EngineLake) -> None:
    """A new trades table has no bound. Retention itself has stored the bound in every candle table."""
    apply_retention(forty_days.lake, K2_RETENTION_TRADES="20d", **EXPIRE_ALL)
    bound = read_bound(forty_days.lake.trades(), FROZEN_BEFORE)
    assert bound is not None
    assert not any(preview_refresh(forty_days.lake, timeframe).intervals for timeframe in TIMEFRAMES), (
        "the bound opens no window"
    )
    forty_days.lake.catalog.drop_table(TRADES_SPEC.identifier)
    lakes.add_trades(forty_days.lake, [t for t in FORTY_DAYS if t.timestamp >= bound])
    refresh_tables(forty_days)
    forty_days.assert_equal_to_trades(FORTY_DAYS)


def test_a_stale_table_blocks_retention_of_trades(forty_days: EngineLake) -> None:
    """Trades stay from the first change that the table lacks. The report names the table and the date."""
    late_trade = numbered_trade(10_000, FIRST_DAY + 10 * DAY)
    lakes.add_trades(forty_days.lake, [late_trade])
    for timeframe in TIMEFRAMES[:-1]:
        forty_days.refresh(timeframe)
    settings = retention_policy(K2_RETENTION_TRADES="20d")
    report = table_report(retention(forty_days.lake, settings, apply=True), "trades")
    assert len(report.partitions) == 10
    assert report.blocked == (f"{DAILY.table} has dirty windows from 2024-01-30: refresh it first",)
    forty_days.refresh(DAILY)
    report = table_report(retention(forty_days.lake, settings, apply=True), "trades")
    assert len(report.partitions) == 9
    assert report.blocked == ()
    refresh_tables(forty_days)
    forty_days.assert_equal_to_trades([*FORTY_DAYS, late_trade])


def test_without_a_watermark_no_trades_expire(forty_days: EngineLake) -> None:
    """The report says that the watermark was removed."""
    table_history.forget_watermark(forty_days.lake.candles(DAILY))
    report = table_report(apply_retention(forty_days.lake, K2_RETENTION_TRADES="20d"), "trades")
    assert report.partitions == ()
    assert report.blocked[0] == "gold_ohlcv_1d: the watermark was removed: refresh it first"
    assert len(forty_days.lake.trades().scan().to_arrow()) == len(FORTY_DAYS)


def test_small_trades_files_are_compacted(sail: EngineLake) -> None:
    """Files of the newest day stay, and no window is dirty."""
    trades = [numbered_trade(i, FIRST_DAY + (i % 2) * DAY + timedelta(minutes=i)) for i in range(40)]
    for start in range(0, 40, 2):
        lakes.add_trades(sail.lake, trades[start : start + 2])
    refresh_tables(sail)
    report = table_report(apply_retention(sail.lake), "trades")
    assert (report.compacted.partitions, report.compacted.before, report.compacted.after) == (1, 20, 1)
    assert report.files_per_partition == (20, 10.5)
    for timeframe in TIMEFRAMES:
        refreshed = sail.refresh(timeframe)
        assert (refreshed.plan.intervals, refreshed.plan.files_read, refreshed.plan.reason) == ((), 0, None)
    sail.assert_equal_to_trades(trades)
    (file,) = [t.file for t in sail.lake.trades().scan().plan_files() if t.file.record_count > 2]
    rows = sail.lake.trades().scan(row_filter=f"timestamp < '{(FIRST_DAY + DAY).isoformat()}'").to_arrow()
    assert file.record_count == rows.num_rows == 20
    assert rows["timestamp"].to_pylist() == sorted(rows["timestamp"].to_pylist())
    assert table_report(apply_retention(sail.lake), "trades").compacted.before == 0


def test_retention_during_a_refresh(forty_days: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention removes files that the refresh planned with, so the refresh starts over."""
    late_trades = [numbered_trade(10_000, FIRST_DAY + DAY), numbered_trade(10_001, END - DAY)]
    lakes.add_trades(forty_days.lake, late_trades)
    settings = retention_policy(K2_RETENTION_1M="30d", **EXPIRE_ALL)
    calls = interrupt_windows(monkeypatch, lambda: retention(forty_days.lake, settings, apply=True))
    report = forty_days.refresh(MINUTE)
    assert calls[0] == 2
    assert (report.plan.skipped, report.counts.added + report.counts.changed) == (1, 1)
    refresh_tables(forty_days)
    assert_candles_kept(forty_days.lake, [*FORTY_DAYS, *late_trades])
    assert read_bound(forty_days.lake.candles(MINUTE), EXPIRED_BEFORE) is not None


def test_a_refresh_during_retention(forty_days: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention repeats its search after each lost race, and drops the same partitions."""
    trades, real, numbers = list(FORTY_DAYS), partition_drops.commit_change, iter(range(10_000, 20_000))

    def commit(table: Table, change: TableCommit) -> Table:
        if table.name()[-1] == MINUTE.table and next(numbers) < 10_003:
            trades.append(numbered_trade(next(numbers), END - DAY))
            lakes.add_trades(forty_days.lake, trades[-1:])
            forty_days.refresh(MINUTE)
        return real(table, change)

    monkeypatch.setattr(partition_drops, "commit_change", commit)
    settings = retention_policy(K2_RETENTION_1M="30d", K2_RETENTION_TRADES="20d", **EXPIRE_ALL)
    report = retention(forty_days.lake, settings, apply=True)
    assert len(table_report(report, "1m").partitions) == 9
    assert len(table_report(report, "trades").partitions) == 19
    refresh_tables(forty_days)
    assert_candles_kept(forty_days.lake, trades)


def test_a_late_trade_blocks_retention(forty_days: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A late trade of a day that is being dropped blocks that day until its candles include the trade."""
    late_trade = numbered_trade(10_000, FIRST_DAY + 5 * DAY)
    real, remaining = partition_drops.commit_change, [1]

    def commit(table: Table, change: TableCommit) -> Table:
        if table.name() == forty_days.lake.trades().name() and remaining:
            remaining.pop()
            lakes.add_trades(forty_days.lake, [late_trade])
        return real(table, change)

    monkeypatch.setattr(partition_drops, "commit_change", commit)
    report = table_report(apply_retention(forty_days.lake, K2_RETENTION_TRADES="20d"), "trades")
    assert not remaining
    assert len(report.partitions) == 5
    assert len(report.blocked) == len(TIMEFRAMES)
    refresh_tables(forty_days)
    forty_days.assert_equal_to_trades([*FORTY_DAYS, late_trade])
