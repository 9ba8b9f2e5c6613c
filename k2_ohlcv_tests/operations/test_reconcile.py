"""Rebuilds make candle tables equal to the trades, on both engines."""

from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given, settings

from k2_ohlcv.domain.candle import KEY_COLUMNS, Trade, aggregate
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.domain.window_counts import WindowCounts
from k2_ohlcv.lake import watermark
from k2_ohlcv.lake.watermark import SNAPSHOT_PROPERTY
from k2_ohlcv.operations import plan_chunks
from k2_ohlcv.operations.reconcile import ReconcileReport, preview_refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE, day_interval, start_minutes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.strategies import move_in_time, trades
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades


def rebuild_all(
    each_engine: EngineLake, timeframes: tuple[Timeframe, ...] = TIMEFRAMES
) -> list[ReconcileReport]:
    return [each_engine.rebuild(timeframe) for timeframe in timeframes]


def test_both_engines_compute_the_reference_candles(each_engine: EngineLake) -> None:
    """A full rebuild makes all five tables equal to the reference, and reports its counts."""
    trades = week_of_trades()
    lakes.add_trades(each_engine.lake, trades)
    for timeframe, report in zip(TIMEFRAMES, rebuild_all(each_engine), strict=True):
        expected = aggregate(trades, timeframe)
        assert report.counts == WindowCounts(added=len(expected))
        assert report.trades_read == len(trades)
        assert report.watermark_moved
        assert [p.partition for p in report.partitions] == timeframe.grain.partitions(
            timeframe.window(t.timestamp) for t in trades
        )
    each_engine.assert_equal_to_trades(trades)


@settings(max_examples=8)
@given(trades(), trades(most=10))
def test_late_trades_change_their_windows_and_no_other(
    sail: EngineLake, trades: list[Trade], late_trades: list[Trade]
) -> None:
    """`updated_at` changes in the windows of late trades only, and `created_at` stays."""
    lakes.drop_tables(sail.lake)
    lakes.add_trades(sail.lake, trades)
    rebuild_all(sail)
    before = {timeframe.name: lakes.read_frame(sail.lake, timeframe) for timeframe in TIMEFRAMES}
    added = [move_in_time(t, timedelta(0)) for t in late_trades]
    lakes.add_trades(sail.lake, added)
    rebuild_all(sail)
    sail.assert_equal_to_trades(trades + added)
    for timeframe in TIMEFRAMES:
        touched = {(t.exchange, t.symbol, timeframe.floor(t.timestamp)) for t in added}
        both = before[timeframe.name].join(
            lakes.read_frame(sail.lake, timeframe), on=KEY_COLUMNS, suffix="_after"
        )
        updated = {
            tuple(row)
            for row in both.filter(pl.col("updated_at") != pl.col("updated_at_after"))
            .select(*KEY_COLUMNS)
            .rows()
        }
        assert updated == touched & {tuple(row) for row in both.select(*KEY_COLUMNS).rows()}
        assert (both["created_at"] == both["created_at_after"]).all()


@settings(max_examples=8)
@given(trades())
def test_any_order_and_batching_gives_the_same_tables(sail: EngineLake, trades: list[Trade]) -> None:
    """The order and number of appends do not change candles."""
    lakes.drop_tables(sail.lake)
    half = len(trades) // 2
    for batch in (trades[half:][::-1], trades[:half]):
        if batch:
            lakes.add_trades(sail.lake, batch)
    rebuild_all(sail)
    sail.assert_equal_to_trades(trades)


def test_a_second_rebuild_commits_nothing(each_engine: EngineLake) -> None:
    """Equal candles make no snapshot."""
    lakes.add_trades(each_engine.lake, week_of_trades())
    rebuild_all(each_engine)
    snapshots = {
        timeframe.name: each_engine.lake.candles(timeframe).current_snapshot() for timeframe in TIMEFRAMES
    }
    for timeframe, report in zip(TIMEFRAMES, rebuild_all(each_engine), strict=True):
        assert not report.committed
        assert (report.counts.added, report.counts.changed, report.counts.removed) == (0, 0, 0)
        assert report.counts.unchanged > 0
        assert each_engine.lake.candles(timeframe).current_snapshot() == snapshots[timeframe.name]


def test_rewritten_trades_change_only_the_watermark(sail: EngineLake) -> None:
    """No data file of candles changes, and one empty snapshot has the new watermark."""
    trades = week_of_trades()
    table = lakes.add_trades(sail.lake, trades)
    sail.rebuild(MINUTE)
    files = lakes.list_data_files(sail.lake.candles(MINUTE))
    table.overwrite(lakes.to_trades_rows(table, trades))
    report = sail.rebuild(MINUTE)
    candles = sail.lake.candles(MINUTE)
    assert report.committed
    assert report.counts.written == 0
    assert lakes.list_data_files(candles) == files
    watermark = table_history.read_watermark(candles)
    assert (watermark.complete, watermark.complete_latest_trade_at) == (
        report.trades_snapshot,
        trades[-1].timestamp,
    )
    assert watermark.is_complete


def test_deleted_trades_remove_their_candles(sail: EngineLake) -> None:
    """A window without trades has no candle, and an empty partition has no rows."""
    trades = week_of_trades()
    table = lakes.add_trades(sail.lake, trades)
    rebuild_all(sail)
    remaining = [t for t in trades if t.timestamp < AT + DAY and t.timestamp.minute == 0]
    table.overwrite(lakes.to_trades_rows(table, remaining))
    rebuild_all(sail)
    sail.assert_equal_to_trades(remaining)
    sail.lake.trades().delete()
    reports = rebuild_all(sail)
    assert all(r.counts.removed for r in reports)
    sail.assert_equal_to_trades([])


def test_damage_is_repaired(sail: EngineLake) -> None:
    """A rebuild removes repeated rows and rows off the window grid, and corrects values."""
    trades = start_minutes(sail)
    rows = lakes.read_frame(sail.lake, MINUTE)
    wrong = rows[5:7].with_columns(pl.col("volume") + 1, pl.col("window_start") + timedelta(seconds=7))
    schema = sail.lake.candles(MINUTE).scan().to_arrow().schema
    sail.lake.candles(MINUTE).append(
        pl.concat([rows[:3], rows[3:5].with_columns(pl.col("trade_count") + 1), wrong])
        .to_arrow()
        .cast(schema)
    )
    report = sail.rebuild(MINUTE)
    sail.assert_equal_to_trades(trades, MINUTE)
    assert (report.counts.changed, report.counts.removed) == (5, 7)


def test_a_row_in_the_wrong_partition_is_removed(sail: EngineLake) -> None:
    """A filter on `window_start` does not find such a row."""
    trades = start_minutes(sail)
    table_history.add_to_wrong_day(sail.lake.candles(MINUTE), day_interval(AT + DAY).start)
    assert len(lakes.read_frame(sail.lake, MINUTE)) == len(aggregate(trades, MINUTE)) + 1
    report = sail.rebuild(MINUTE)
    assert (report.counts.added, report.counts.changed, report.counts.removed) == (0, 0, 1)
    sail.assert_equal_to_trades(trades, MINUTE)


def test_only_the_chosen_partitions_are_rebuilt(sail: EngineLake) -> None:
    """The other days stay open, so the watermark is not complete."""
    trades = week_of_trades()
    lakes.add_trades(sail.lake, trades)
    report = sail.rebuild(MINUTE, [day_interval(AT)])
    assert not report.watermark_moved
    watermark = table_history.read_watermark(sail.lake.candles(MINUTE))
    assert watermark.complete is None
    assert watermark.open_intervals == (
        Interval(day_interval(AT + DAY).start, day_interval(trades[-1].timestamp).end),
    )
    assert SNAPSHOT_PROPERTY not in sail.lake.candles(MINUTE).properties
    expected = [c for c in aggregate(trades, MINUTE) if c.window_start in day_interval(AT)]
    assert lakes.read_candles(sail.lake, MINUTE) == expected


def test_a_rebuild_of_every_dirty_window_completes_the_watermark(sail: EngineLake) -> None:
    """One day is enough if no other day changed since the watermark."""
    trades = start_minutes(sail)
    lakes.add_trades(sail.lake, [make_trade(10_000, AT + DAY)])
    assert not sail.rebuild(MINUTE, [day_interval(AT)]).watermark_moved
    assert sail.rebuild(MINUTE, [day_interval(AT + DAY)]).watermark_moved
    sail.assert_equal_to_trades([*trades, make_trade(10_000, AT + DAY)], MINUTE)


def test_many_separate_days_complete_the_watermark(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored watermark merges intervals that are too many. The run itself knows all of them."""
    monkeypatch.setattr(watermark, "_MAX_OPEN", 2)
    monkeypatch.setattr(plan_chunks, "MAX_CHUNK_TRADES", 1)
    days = [make_trade(i, AT + 2 * i * DAY) for i in range(5)]
    lakes.add_trades(sail.lake, days)
    assert sail.rebuild(MINUTE).watermark_moved
    assert preview_refresh(sail.lake, MINUTE).is_current
    assert len(sail.lake.candles(MINUTE).snapshots()) == len(days)
    sail.assert_equal_to_trades(days, MINUTE)


def test_a_rebuild_without_trades_is_no_error(sail: EngineLake) -> None:
    """Nothing is committed."""
    for report in rebuild_all(sail):
        assert not report.committed
        assert report.trades_snapshot is None
        assert report.partitions == ()


def test_the_two_engines_write_equal_tables(each_engine: EngineLake, sail: EngineLake) -> None:
    """All columns but the audit columns are equal, types included."""
    trades = [replace(t, exchange="KRAKEN") for t in week_of_trades()] + week_of_trades()
    lakes.add_trades(each_engine.lake, trades)
    rebuild_all(each_engine)
    expected = {
        timeframe.name: lakes.read_frame(each_engine.lake, timeframe)
        .drop("created_at", "updated_at")
        .sort(*KEY_COLUMNS)
        for timeframe in TIMEFRAMES
    }
    lakes.drop_tables(sail.lake)
    lakes.add_trades(sail.lake, trades)
    rebuild_all(sail)
    for timeframe in TIMEFRAMES:
        rows = lakes.read_frame(sail.lake, timeframe).drop("created_at", "updated_at").sort(*KEY_COLUMNS)
        assert rows.equals(expected[timeframe.name])
        assert rows.schema == expected[timeframe.name].schema
