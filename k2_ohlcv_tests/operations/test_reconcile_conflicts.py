"""Rebuilds and refreshes beside other writers, and after an interruption."""

from datetime import timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.errors import CommitConflictError, InvariantError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake import retry
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.lake.watermark import SNAPSHOT_PROPERTY
from k2_ohlcv.operations import plan_chunks, plan_run
from k2_ohlcv.operations.reconcile import rebuild
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE, assert_refreshed, day_interval, start_minutes
from k2_ohlcv_tests.support.crash import Interrupted, interrupt_windows
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades

#: The most trades of a day of `week_of_trades`. A commit of as many has one day.
TRADES_PER_DAY = 48


def test_the_watermark_is_set_in_the_last_commit(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error between two commits, the first part is stored and the watermark is unset."""
    trades = week_of_trades()
    lakes.add_trades(sail.lake, trades)
    monkeypatch.setattr(plan_chunks, "MAX_CHUNK_TRADES", TRADES_PER_DAY)
    real = plan_run.commit_change

    def commit_once(*args: object) -> object:
        monkeypatch.setattr(plan_run, "commit_change", None)  # the next commit fails
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(plan_run, "commit_change", commit_once)
    with pytest.raises(TypeError):
        sail.rebuild(MINUTE)
    assert len(lakes.read_candles(sail.lake, MINUTE)) > 0
    assert SNAPSHOT_PROPERTY not in sail.lake.candles(MINUTE).properties
    monkeypatch.setattr(plan_run, "commit_change", real)
    sail.rebuild(MINUTE)
    sail.assert_equal_to_trades(trades, MINUTE)
    assert SNAPSHOT_PROPERTY in sail.lake.candles(MINUTE).properties


def test_invalid_candles_are_never_committed(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid `vwap` stops the rebuild before its first commit."""
    lakes.add_trades(sail.lake, week_of_trades())
    real = plan_run.candles_from_windows

    def broken(windows: pa.Table, timeframe: Timeframe) -> tuple[pl.DataFrame, pl.DataFrame]:
        computed, refused = real(windows, timeframe)
        return computed.with_columns(vwap=pl.col("high_price") + 1), refused

    monkeypatch.setattr(plan_run, "candles_from_windows", broken)
    with pytest.raises(InvariantError, match="vwap_bounds"):
        sail.rebuild(MINUTE)
    assert sail.lake.candles(MINUTE).current_snapshot() is None


def test_an_old_pin_is_never_written_over_a_newer_result(sail: EngineLake) -> None:
    """Another writer adds trades and rebuilds after the trades snapshot is pinned.

    The older commit must fail. This test fails if the trades are pinned before the candle table is loaded.
    """
    start_minutes(sail)
    lakes.add_trades(sail.lake, [make_trade(20_000)])

    def another_writer() -> None:
        lakes.add_trades(sail.lake, [make_trade(30_000)])
        sail.rebuild(MINUTE)

    rebuild(Interrupted(sail.lake.catalog, actions=[another_writer]), sail.engine, MINUTE, [day_interval(AT)])
    sail.assert_equal_to_trades([*week_of_trades(), make_trade(20_000), make_trade(30_000)], MINUTE)


@pytest.mark.parametrize("change", ["in another file", "of properties alone"])
def test_other_commits_restart_a_rebuild(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """PyIceberg's own retry would see no conflict with a commit without new files."""
    trades = start_minutes(sail)
    lakes.add_trades(sail.lake, [make_trade(10_000)])

    def another_writer() -> None:
        candles = sail.lake.candles(MINUTE)
        files = live_files(candles, candles.metadata.current_snapshot_id)
        other_file = next(f.file for f in files if f.span.start > day_interval(AT + DAY).start)
        commit_change(
            candles,
            TableCommit(removed_files=(other_file,))
            if "file" in change
            else TableCommit(properties={"note": "1"}),
        )

    calls = interrupt_windows(monkeypatch, another_writer)
    sail.rebuild(MINUTE, [day_interval(AT)])
    assert calls[0] == 2
    expected = aggregate([*trades, make_trade(10_000)], MINUTE)
    assert [c for c in lakes.read_candles(sail.lake, MINUTE) if c.window_start in day_interval(AT)] == [
        c for c in expected if c.window_start in day_interval(AT)
    ]


def test_two_moves_of_the_watermark_conflict(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """This test fails if the watermark is set without a snapshot, since nothing conflicts then."""
    trades = start_minutes(sail)
    table = sail.lake.trades()
    table.overwrite(lakes.to_trades_rows(table, trades))

    def another_writer() -> None:
        assert sail.rebuild(MINUTE).committed

    calls = interrupt_windows(monkeypatch, another_writer)
    report = sail.rebuild(MINUTE)
    assert calls[0] == 2
    assert not report.committed


def test_a_rebuild_that_loses_every_race_fails(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the number of attempts."""
    lakes.add_trades(sail.lake, week_of_trades())
    numbers = iter(range(50_000, 60_000))

    def another_writer() -> None:
        lakes.add_trades(sail.lake, [make_trade(next(numbers))])
        sail.rebuild(MINUTE, [day_interval(AT)])

    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    interrupt_windows(monkeypatch, another_writer, times=2)
    with pytest.raises(CommitConflictError, match="during each of 2 attempts"):
        sail.rebuild(MINUTE)


REAL_COMMIT = plan_run.commit_change


def interrupt_after(monkeypatch: pytest.MonkeyPatch, commits: int) -> None:
    """Raise KeyboardInterrupt instead of the commit after some commits."""
    remaining = [commits]

    def commit(*arguments: Any) -> Table:
        if not remaining[0]:
            raise KeyboardInterrupt
        remaining[0] -= 1
        return REAL_COMMIT(*arguments)

    monkeypatch.setattr(plan_run, "commit_change", commit)


def test_a_refresh_skips_committed_windows(three_days: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """New trades arrive between the two, and committed windows are not computed again."""
    monkeypatch.setattr(plan_chunks, "MAX_CHUNK_TRADES", 0)
    late_trades = [make_trade(1000 + n, AT + n * DAY + timedelta(minutes=5)) for n in range(3)]
    lakes.add_trades(three_days.lake, late_trades)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        three_days.refresh(MINUTE)
    monkeypatch.setattr(plan_run, "commit_change", REAL_COMMIT)
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    new_trade = make_trade(2000, AT + timedelta(minutes=40))
    lakes.add_trades(three_days.lake, [new_trade])
    report = three_days.refresh(MINUTE)
    assert [i.start for i in report.plan.intervals] == [new_trade.timestamp, late_trades[2].timestamp]
    assert_refreshed(three_days, [*week_of_trades(), *late_trades, new_trade])


def test_an_interrupted_first_refresh_is_continued(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the partitions that were not committed are computed."""
    lakes.add_trades(sail.lake, week_of_trades())
    monkeypatch.setattr(plan_chunks, "MAX_CHUNK_TRADES", TRADES_PER_DAY)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        sail.refresh(MINUTE)
    monkeypatch.setattr(plan_run, "commit_change", REAL_COMMIT)
    report = sail.refresh(MINUTE)
    assert report.plan.partitions == [day_interval(AT + 2 * DAY), day_interval(AT + 3 * DAY)]
    assert_refreshed(sail, week_of_trades())
