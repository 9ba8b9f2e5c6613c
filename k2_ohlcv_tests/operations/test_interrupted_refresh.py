"""A refresh that breaks off between two commits, and the next refresh."""

from datetime import timedelta
from typing import Any

import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.operations import plan, reconcile
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE, assert_refreshed, day_interval
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades

REAL_COMMIT = reconcile.commit_change


def interrupt_after(monkeypatch: pytest.MonkeyPatch, commits: int) -> None:
    """Raise KeyboardInterrupt instead of the commit after some commits."""
    remaining = [commits]

    def commit(*arguments: Any) -> Table:
        if not remaining[0]:
            raise KeyboardInterrupt
        remaining[0] -= 1
        return REAL_COMMIT(*arguments)

    monkeypatch.setattr(reconcile, "commit_change", commit)


def test_the_next_refresh_skips_committed_windows(
    three_days: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New trades arrive between the two, and committed windows are not computed again."""
    monkeypatch.setattr(plan, "MAX_CHUNK_PARTITIONS", 1)
    late_trades = [make_trade(1000 + n, AT + n * DAY + timedelta(minutes=5)) for n in range(3)]
    lakes.add_trades(three_days.lake, late_trades)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        three_days.refresh(MINUTE)
    monkeypatch.setattr(reconcile, "commit_change", REAL_COMMIT)
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    new_trade = make_trade(2000, AT + timedelta(minutes=40))
    lakes.add_trades(three_days.lake, [new_trade])
    report = three_days.refresh(MINUTE)
    assert [i.start for i in report.plan.intervals] == [new_trade.timestamp, late_trades[2].timestamp]
    assert_refreshed(three_days, [*week_of_trades(), *late_trades, new_trade])


def test_an_interrupted_first_refresh_is_continued(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the partitions that were not committed are computed."""
    lakes.add_trades(sail.lake, week_of_trades())
    monkeypatch.setattr(plan, "MAX_CHUNK_PARTITIONS", 1)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        sail.refresh(MINUTE)
    monkeypatch.setattr(reconcile, "commit_change", REAL_COMMIT)
    report = sail.refresh(MINUTE)
    assert report.plan.partitions == [day_interval(AT + 2 * DAY), day_interval(AT + 3 * DAY)]
    assert_refreshed(sail, week_of_trades())
