"""Refresh of new and corrected trades: exactly their windows change."""

from datetime import timedelta

import polars as pl
import pytest

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.intervals import DAY, is_covered
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.operations.reconcile import preview_refresh, refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE, day_interval, refresh_all, start_week, trade_windows
from k2_ohlcv_tests.support.crash import Interrupted, interrupt_windows
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades

HOURLY, DAILY = find_timeframe("1h"), find_timeframe("1d")


def test_the_first_refresh_computes_every_window(each_engine: EngineLake) -> None:
    """Without a watermark every trades file is read."""
    trades = week_of_trades()
    lakes.add_trades(each_engine.lake, trades)
    for report in refresh_all(each_engine):
        assert report.plan.reason == "the table has no watermark yet"
        assert report.plan.files_read == len(lakes.list_data_files(each_engine.lake.trades()))
        assert report.watermark_moved
    each_engine.assert_equal_to_trades(trades)


def test_a_refresh_of_an_up_to_date_table_does_nothing(sail: EngineLake) -> None:
    """No partition is computed and nothing is committed."""
    start_week(sail)
    for report in refresh_all(sail):
        assert report.plan.is_current
        assert not report.committed
        assert report.partitions == ()


def test_new_trades_change_their_windows_only(each_engine: EngineLake) -> None:
    """The dirty intervals are the windows of new and late trades, and no other candle is computed."""
    trades = start_week(each_engine)
    new_trades = [make_trade(1000, AT + timedelta(minutes=7)), make_trade(1001, AT + 3 * DAY)]
    lakes.add_trades(each_engine.lake, new_trades)
    for timeframe, report in zip(TIMEFRAMES, refresh_all(each_engine), strict=True):
        assert list(report.plan.intervals) == trade_windows(new_trades, timeframe)
        assert report.counts.added + report.counts.changed == len(
            {timeframe.floor(t.timestamp) for t in new_trades}
        )
        assert report.counts.unchanged == 0
    each_engine.assert_equal_to_trades(trades + new_trades)


def test_no_trades_file_outside_the_dirty_intervals_is_read(sail: EngineLake) -> None:
    """Of four files the new one is read for its market, and then it and the file that overlaps it."""
    start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT + DAY + timedelta(minutes=7))])
    report = sail.refresh(MINUTE)
    assert report.plan.files_changed == 1
    overlapping = [
        f
        for f in live_files(sail.lake.trades(), report.trades_snapshot)
        if any(f.span.intersect(i) for i in report.plan.intervals)
    ]
    assert report.plan.files_read == 1 + len(overlapping) <= 3


def test_a_corrected_trade_in_a_rewritten_file_dirties_one_window(sail: EngineLake) -> None:
    """Copy-on-write replaces the file of a day. A comparison finds the one row that differs."""
    start_week(sail)
    table = sail.lake.trades()
    (task,) = [t for t in table.scan().plan_files() if "02-29" in t.file.file_path][:1]

    def correct(rows: pl.DataFrame) -> pl.DataFrame:
        first = pl.col("trade_id") == rows["trade_id"].min()
        return rows.with_columns(
            quantity=pl.when(first)
            .then(pl.col("quantity") * 2)
            .otherwise(pl.col("quantity"))
            .cast(pl.Decimal(19, 8))
        )

    table_history.rewrite_files(table, [task], correct)
    report = sail.refresh(MINUTE)
    assert (report.counts.changed, report.counts.unchanged) == (1, 0)
    assert report.plan.files_changed == 2, "one removed file and one added file"
    assert len(report.plan.intervals) == 1
    refresh_all(sail)
    sail.assert_equal_to_trades(lakes.all_trades(sail.lake))


def test_deleted_trades_remove_their_candles(sail: EngineLake) -> None:
    """The candles of a deleted day are removed from every table."""
    start_week(sail)
    sail.lake.trades().delete(f"timestamp < '{(AT + DAY).isoformat()}'")
    report = sail.refresh(MINUTE)
    assert report.counts.removed == 48
    refresh_all(sail)
    sail.assert_equal_to_trades(lakes.all_trades(sail.lake))


def test_many_scattered_trades_are_read_as_few_intervals(sail: EngineLake) -> None:
    """At most 64 intervals cover every dirty window."""
    trades = start_week(sail)
    new_trades = [make_trade(1000 + i, AT + timedelta(minutes=17 * i)) for i in range(150)]
    lakes.add_trades(sail.lake, new_trades)
    report = sail.refresh(MINUTE)
    assert len(report.plan.intervals) <= 64
    assert is_covered(report.plan.intervals, trade_windows(new_trades, MINUTE))
    sail.assert_equal_to_trades(trades + new_trades, MINUTE)


def test_a_plan_prints_ten_intervals(sail: EngineLake) -> None:
    """The rest is printed as a count."""
    start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000 + n, AT + timedelta(minutes=7 + 10 * n)) for n in range(13)])
    printed = preview_refresh(sail.lake, MINUTE).lines()
    assert printed[-1].strip() == "and 3 more"
    assert len(printed) == 2 + 10 + 1


def test_other_windows_keep_their_audit_columns(sail: EngineLake) -> None:
    """`updated_at` changes in the dirty window alone."""
    start_week(sail)
    before = lakes.read_frame(sail.lake, HOURLY)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    sail.refresh(HOURLY)
    both = before.join(lakes.read_frame(sail.lake, HOURLY), on=KEY_COLUMNS, suffix="_after")
    updated = both.filter(pl.col("updated_at") != pl.col("updated_at_after"))
    assert updated["window_start"].to_list() == [HOURLY.floor(AT)]
    assert (both["created_at"] == both["created_at_after"]).all()


def test_a_preview_commits_nothing(sail: EngineLake) -> None:
    """A preview names the dirty partitions."""
    start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    before = table_history.current_snapshot_id(sail.lake.candles(MINUTE))
    preview = preview_refresh(sail.lake, MINUTE)
    assert not preview.is_current
    assert preview.as_json()["partitions"] == ["2024-02-28"]
    assert "1 trades files differ" in preview.lines()[0]
    assert table_history.current_snapshot_id(sail.lake.candles(MINUTE)) == before


def test_a_rebuild_in_the_middle_of_a_refresh(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refresh starts over, shared work is done once, and no change is lost."""
    trades = start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])

    def another_writer() -> None:
        lakes.add_trades(sail.lake, [make_trade(1001, AT + DAY)])
        sail.rebuild(MINUTE, [day_interval(AT)])

    calls = interrupt_windows(monkeypatch, another_writer)
    report = sail.refresh(MINUTE)
    assert calls[0] == 2
    assert report.watermark_moved
    sail.assert_equal_to_trades([*trades, make_trade(1000, AT), make_trade(1001, AT + DAY)], MINUTE)


def test_trades_appended_during_a_refresh_wait(sail: EngineLake) -> None:
    """Trades after the pinned snapshot are left to the next refresh. The watermark does not include them."""
    trades = start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    late = make_trade(1001, AT)
    lake = Interrupted(sail.lake.catalog, actions=[lambda: lakes.add_trades(sail.lake, [late])])
    report = refresh(lake, sail.engine, MINUTE)
    watermark = table_history.read_watermark(sail.lake.candles(MINUTE))
    assert (
        watermark.snapshot_id
        == report.trades_snapshot
        != table_history.current_snapshot_id(sail.lake.trades())
    )
    sail.assert_equal_to_trades([*trades, make_trade(1000, AT)], MINUTE)
    sail.refresh(MINUTE)
    sail.assert_equal_to_trades([*trades, make_trade(1000, AT), late], MINUTE)
