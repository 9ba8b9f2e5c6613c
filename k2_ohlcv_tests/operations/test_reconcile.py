"""The one operation: candle tables become equal to the trades, exactly, whoever else is writing."""

from dataclasses import replace
from datetime import timedelta

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings

from k2_ohlcv.domain.candle import KEY_COLUMNS, Trade, aggregate
from k2_ohlcv.domain.errors import CommitConflictError, InvariantError
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.domain.window_counts import WindowCounts
from k2_ohlcv.lake import retry
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.watermark import SNAPSHOT_PROPERTY
from k2_ohlcv.operations import plan, reconcile
from k2_ohlcv.operations.reconcile import ReconcileReport, rebuild
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE, day_interval
from k2_ohlcv_tests.support.crash import Interrupted, interrupt_windows
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.strategies import move_in_time, trades
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades


def rebuild_all(
    each_engine: EngineLake, timeframes: tuple[Timeframe, ...] = TIMEFRAMES
) -> list[ReconcileReport]:
    return [each_engine.rebuild(each) for each in timeframes]


def test_both_engines_make_the_candles_of_the_trades(each_engine: EngineLake) -> None:
    """A rebuild of everything makes all five tables equal to the reference, and says what it did."""
    some = week_of_trades()
    lakes.add_trades(each_engine.lake, some)
    for each, report in zip(TIMEFRAMES, rebuild_all(each_engine), strict=True):
        wanted = aggregate(some, each)
        assert report.counts == WindowCounts(added=len(wanted))
        assert report.trades_read == len(some)
        assert report.watermark_moved
        assert [p.partition for p in report.partitions] == each.grain.partitions(
            each.window(t.timestamp) for t in some
        )
    each_engine.assert_equal_to_trades(some)


@settings(max_examples=8)
@given(trades(), trades(most=10))
def test_late_trades_change_their_windows_and_no_other(
    sail: EngineLake, some: list[Trade], more: list[Trade]
) -> None:
    """After new trades, `updated_at` moves in the windows that they fall in, and `created_at` stays."""
    lakes.drop_tables(sail.lake)
    lakes.add_trades(sail.lake, some)
    rebuild_all(sail)
    before = {each.name: lakes.read_frame(sail.lake, each) for each in TIMEFRAMES}
    added = [move_in_time(t, timedelta(0)) for t in more]
    lakes.add_trades(sail.lake, added)
    rebuild_all(sail)
    sail.assert_equal_to_trades(some + added)
    for each in TIMEFRAMES:
        touched = {(t.exchange, t.symbol, each.floor(t.timestamp)) for t in added}
        both = before[each.name].join(lakes.read_frame(sail.lake, each), on=KEY_COLUMNS, suffix="_after")
        moved = {
            tuple(row)
            for row in both.filter(pl.col("updated_at") != pl.col("updated_at_after"))
            .select(*KEY_COLUMNS)
            .rows()
        }
        assert moved == touched & {tuple(row) for row in both.select(*KEY_COLUMNS).rows()}
        assert (both["created_at"] == both["created_at_after"]).all()


@settings(max_examples=8)
@given(trades())
def test_any_order_and_batching_of_trades_gives_the_same_tables(sail: EngineLake, some: list[Trade]) -> None:
    lakes.drop_tables(sail.lake)
    half = len(some) // 2
    for batch in (some[half:][::-1], some[:half]):
        if batch:
            lakes.add_trades(sail.lake, batch)
    rebuild_all(sail)
    sail.assert_equal_to_trades(some)


def test_a_second_rebuild_commits_nothing(each_engine: EngineLake) -> None:
    lakes.add_trades(each_engine.lake, week_of_trades())
    rebuild_all(each_engine)
    snapshots = {each.name: each_engine.lake.candles(each).current_snapshot() for each in TIMEFRAMES}
    for each, report in zip(TIMEFRAMES, rebuild_all(each_engine), strict=True):
        assert not report.committed
        assert (report.counts.added, report.counts.changed, report.counts.removed) == (0, 0, 0)
        assert report.counts.unchanged > 0
        assert each_engine.lake.candles(each).current_snapshot() == snapshots[each.name]


def test_new_trades_that_change_no_window_move_only_the_watermark(sail: EngineLake) -> None:
    """Trades rewritten as they were: no data file changes, and one empty snapshot carries the watermark."""
    some = week_of_trades()
    table = lakes.add_trades(sail.lake, some)
    sail.rebuild(MINUTE)
    files = lakes.list_data_files(sail.lake.candles(MINUTE))
    table.overwrite(lakes.to_trades_rows(table, some))
    report = sail.rebuild(MINUTE)
    candles = sail.lake.candles(MINUTE)
    assert report.committed
    assert report.counts.written == 0
    assert lakes.list_data_files(candles) == files
    mark = table_history.read_watermark(candles)
    assert (mark.complete, mark.complete_latest_trade_at) == (report.trades_snapshot, some[-1].timestamp)
    assert mark.is_complete


def test_trades_that_went_take_their_candles_along(sail: EngineLake) -> None:
    """Windows without trades have no candle, and a partition that loses all its trades loses all its rows."""
    some = week_of_trades()
    table = lakes.add_trades(sail.lake, some)
    rebuild_all(sail)
    kept = [t for t in some if t.timestamp < AT + DAY and t.timestamp.minute == 0]
    table.overwrite(lakes.to_trades_rows(table, kept))
    rebuild_all(sail)
    sail.assert_equal_to_trades(kept)
    sail.lake.trades().delete()
    reports = rebuild_all(sail)
    assert all(r.counts.removed for r in reports)
    sail.assert_equal_to_trades([])


def test_damage_is_repaired(sail: EngineLake) -> None:
    """Repeated rows, rows off the grid and rows with wrong values: a rebuild leaves one right row a key."""
    some = week_of_trades()
    lakes.add_trades(sail.lake, some)
    sail.rebuild(MINUTE)
    rows = lakes.read_frame(sail.lake, MINUTE)
    wrong = rows[5:7].with_columns(pl.col("volume") + 1, pl.col("window_start") + timedelta(seconds=7))
    schema = sail.lake.candles(MINUTE).scan().to_arrow().schema
    sail.lake.candles(MINUTE).append(
        pl.concat([rows[:3], rows[3:5].with_columns(pl.col("trade_count") + 1), wrong])
        .to_arrow()
        .cast(schema)
    )
    report = sail.rebuild(MINUTE)
    sail.assert_equal_to_trades(some, MINUTE)
    assert (report.counts.changed, report.counts.removed) == (5, 7)


def test_a_row_in_a_partition_that_it_does_not_belong_to_goes(sail: EngineLake) -> None:
    """No filter on window_start finds such a row, so it would stay for ever."""
    some = week_of_trades()
    lakes.add_trades(sail.lake, some)
    sail.rebuild(MINUTE)
    table_history.add_to_wrong_day(sail.lake.candles(MINUTE), day_interval(AT + DAY).start)
    assert len(lakes.read_frame(sail.lake, MINUTE)) == len(aggregate(some, MINUTE)) + 1
    report = sail.rebuild(MINUTE)
    assert (report.counts.added, report.counts.changed, report.counts.removed) == (0, 0, 1)
    sail.assert_equal_to_trades(some, MINUTE)


def test_only_the_chosen_partitions_are_rebuilt(sail: EngineLake) -> None:
    """And the table has no complete watermark: the other days stay open."""
    some = week_of_trades()
    lakes.add_trades(sail.lake, some)
    report = sail.rebuild(MINUTE, [day_interval(AT)])
    assert not report.watermark_moved
    mark = table_history.read_watermark(sail.lake.candles(MINUTE))
    assert mark.complete is None
    assert mark.open_intervals == (
        Interval(day_interval(AT + DAY).start, day_interval(some[-1].timestamp).end),
    )
    assert SNAPSHOT_PROPERTY not in sail.lake.candles(MINUTE).properties
    wanted = [c for c in aggregate(some, MINUTE) if c.window_start in day_interval(AT)]
    assert lakes.read_candles(sail.lake, MINUTE) == wanted


def test_a_rebuild_that_covers_all_that_is_dirty_moves_the_watermark(sail: EngineLake) -> None:
    """Be it only one day: the others have not changed since the watermark."""
    some = week_of_trades()
    lakes.add_trades(sail.lake, some)
    sail.rebuild(MINUTE)
    lakes.add_trades(sail.lake, [make_trade(10_000, AT + DAY)])
    assert not sail.rebuild(MINUTE, [day_interval(AT)]).watermark_moved
    assert sail.rebuild(MINUTE, [day_interval(AT + DAY)]).watermark_moved
    sail.assert_equal_to_trades([*some, make_trade(10_000, AT + DAY)], MINUTE)


def test_no_trades_at_all_is_no_error(sail: EngineLake) -> None:
    for report in rebuild_all(sail):
        assert not report.committed
        assert report.trades_snapshot is None
        assert report.partitions == ()


def test_a_long_rebuild_commits_in_parts_and_moves_the_watermark_last(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = week_of_trades()
    lakes.add_trades(sail.lake, some)
    monkeypatch.setattr(plan, "MAX_CHUNK_PARTITIONS", 2)
    real = reconcile.commit_change

    def breaks_off(*args: object) -> object:
        monkeypatch.setattr(reconcile, "commit_change", None)  # the next one fails
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(reconcile, "commit_change", breaks_off)
    with pytest.raises(TypeError):
        sail.rebuild(MINUTE)
    assert len(lakes.read_candles(sail.lake, MINUTE)) > 0
    assert SNAPSHOT_PROPERTY not in sail.lake.candles(MINUTE).properties
    monkeypatch.setattr(reconcile, "commit_change", real)
    sail.rebuild(MINUTE)
    sail.assert_equal_to_trades(some, MINUTE)
    assert SNAPSHOT_PROPERTY in sail.lake.candles(MINUTE).properties


def test_candles_that_break_an_invariant_are_never_committed(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakes.add_trades(sail.lake, week_of_trades())
    real = reconcile.candles_from_windows

    def broken(windows: pa.Table, each: Timeframe) -> tuple[pl.DataFrame, pl.DataFrame]:
        computed, refused = real(windows, each)
        return computed.with_columns(vwap=pl.col("high_price") + 1), refused

    monkeypatch.setattr(reconcile, "candles_from_windows", broken)
    with pytest.raises(InvariantError, match="vwap_bounds"):
        sail.rebuild(MINUTE)
    assert sail.lake.candles(MINUTE).current_snapshot() is None


def test_an_old_pin_is_never_written_over_a_newer_result(sail: EngineLake) -> None:
    """Trades are pinned, then others add trades and rebuild: the commit from the old pin must not land.

    Fails when the trades are pinned before the candle table is loaded.
    """
    lakes.add_trades(sail.lake, week_of_trades())
    sail.rebuild(MINUTE)
    lakes.add_trades(sail.lake, [make_trade(20_000)])

    def others() -> None:
        lakes.add_trades(sail.lake, [make_trade(30_000)])
        sail.rebuild(MINUTE)

    rebuild(Interrupted(sail.lake.catalog, actions=[others]), sail.engine, MINUTE, [day_interval(AT)])
    sail.assert_equal_to_trades([*week_of_trades(), make_trade(20_000), make_trade(30_000)], MINUTE)


@pytest.mark.parametrize("what", ["in another file", "of properties alone"])
def test_any_other_commit_makes_a_rebuild_start_over(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Fails when PyIceberg's own retry is left on: it sees no conflict with a commit that adds no file."""
    some = week_of_trades()
    lakes.add_trades(sail.lake, some)
    sail.rebuild(MINUTE)
    lakes.add_trades(sail.lake, [make_trade(10_000)])

    def others() -> None:
        candles = sail.lake.candles(MINUTE)
        files = live_files(candles, candles.metadata.current_snapshot_id)
        elsewhere = next(f.file for f in files if f.span.start > day_interval(AT + DAY).start)
        commit_change(
            candles,
            TableCommit(removed_files=(elsewhere,))
            if "file" in what
            else TableCommit(properties={"note": "1"}),
        )

    calls = interrupt_windows(monkeypatch, others)
    sail.rebuild(MINUTE, [day_interval(AT)])
    assert calls[0] == 2
    wanted = aggregate([*some, make_trade(10_000)], MINUTE)
    assert [c for c in lakes.read_candles(sail.lake, MINUTE) if c.window_start in day_interval(AT)] == [
        c for c in wanted if c.window_start in day_interval(AT)
    ]


def test_two_moves_of_the_watermark_conflict(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the watermark moves without a snapshot: then nothing conflicts with it."""
    some = week_of_trades()
    lakes.add_trades(sail.lake, some)
    sail.rebuild(MINUTE)
    table = sail.lake.trades()
    table.overwrite(lakes.to_trades_rows(table, some))

    def others() -> None:
        assert sail.rebuild(MINUTE).committed

    calls = interrupt_windows(monkeypatch, others)
    report = sail.rebuild(MINUTE)
    assert calls[0] == 2
    assert not report.committed


def test_losing_every_race_says_so(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lakes.add_trades(sail.lake, week_of_trades())
    numbers = iter(range(50_000, 60_000))

    def others() -> None:
        lakes.add_trades(sail.lake, [make_trade(next(numbers))])
        sail.rebuild(MINUTE, [day_interval(AT)])

    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    interrupt_windows(monkeypatch, others, times=2)
    with pytest.raises(CommitConflictError, match="during each of 2 attempts"):
        sail.rebuild(MINUTE)


def test_the_two_engines_write_equal_tables(each_engine: EngineLake, sail: EngineLake) -> None:
    """All columns but the clocks, types included."""
    some = [replace(t, exchange="KRAKEN") for t in week_of_trades()] + week_of_trades()
    lakes.add_trades(each_engine.lake, some)
    rebuild_all(each_engine)
    theirs = {
        each.name: lakes.read_frame(each_engine.lake, each)
        .drop("created_at", "updated_at")
        .sort(*KEY_COLUMNS)
        for each in TIMEFRAMES
    }
    lakes.drop_tables(sail.lake)
    lakes.add_trades(sail.lake, some)
    rebuild_all(sail)
    for each in TIMEFRAMES:
        ours = lakes.read_frame(sail.lake, each).drop("created_at", "updated_at").sort(*KEY_COLUMNS)
        assert ours.equals(theirs[each.name])
        assert ours.schema == theirs[each.name].schema
