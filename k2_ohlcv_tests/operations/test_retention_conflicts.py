"""Retention and refresh at the same time."""

import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake.commit import TableCommit
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, read_bound
from k2_ohlcv.lake.maintenance import partition_drops
from k2_ohlcv.operations.retention import retention
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.crash import interrupt_windows
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.forty_days import (
    END,
    EXPIRE_SNAPSHOTS,
    FIRST_DAY,
    apply_retention,
    assert_candles_kept,
    forty_days_of_trades,
    numbered_trade,
    refresh_tables,
    retention_policy,
    table_report,
)


def test_retention_in_the_middle_of_a_refresh(
    forty_days: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention drops and removes files that the refresh planned with.

    The refresh starts over and is correct.
    """
    late_trades = [numbered_trade(10_000, FIRST_DAY + DAY), numbered_trade(10_001, END - DAY)]
    lakes.add_trades(forty_days.lake, late_trades)
    settings = retention_policy(K2_RETENTION_1M="30d", **EXPIRE_SNAPSHOTS)
    calls = interrupt_windows(monkeypatch, lambda: retention(forty_days.lake, settings, apply=True))
    report = forty_days.refresh(MINUTE)
    assert calls[0] == 2
    assert (report.plan.skipped, report.counts.added + report.counts.changed) == (1, 1)
    refresh_tables(forty_days)
    assert_candles_kept(forty_days.lake, [*forty_days_of_trades(), *late_trades])
    assert read_bound(forty_days.lake.candles(MINUTE), EXPIRED_BEFORE) is not None


def test_a_refresh_in_the_middle_of_retention(
    forty_days: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh commits before each commit of retention.

    Retention repeats its search and drops the same partitions.
    """
    trades, real, numbers = forty_days_of_trades(), partition_drops.commit_change, iter(range(10_000, 20_000))

    def commit(table: Table, change: TableCommit) -> Table:
        if table.name()[-1] == MINUTE.table and next(numbers) < 10_003:
            trades.append(numbered_trade(next(numbers), END - DAY))
            lakes.add_trades(forty_days.lake, trades[-1:])
            forty_days.refresh(MINUTE)
        return real(table, change)

    monkeypatch.setattr(partition_drops, "commit_change", commit)
    settings = retention_policy(K2_RETENTION_1M="30d", K2_RETENTION_TRADES="20d", **EXPIRE_SNAPSHOTS)
    report = retention(forty_days.lake, settings, apply=True)
    assert len(table_report(report, "1m").partitions) == 9
    assert len(table_report(report, "trades").partitions) == 19
    refresh_tables(forty_days)
    assert_candles_kept(forty_days.lake, trades)


def test_a_late_trade_in_the_middle_of_retention_is_not_lost(
    forty_days: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    forty_days.assert_equal_to_trades([*forty_days_of_trades(), late_trade])
