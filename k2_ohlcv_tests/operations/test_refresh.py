"""Refresh: whatever happens to trades reaches exactly the windows that it touches."""

from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from k2_ohlcv.domain.candle import KEY_COLUMNS, Trade, aggregate
from k2_ohlcv.domain.intervals import DAY, Interval, is_covered
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.operations.reconcile import preview_refresh, refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE, day_interval, refresh_all, start_week
from k2_ohlcv_tests.support.crash import Interrupted, interrupt_windows
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades

HOURLY, DAILY = find_timeframe("1h"), find_timeframe("1d")


def windows_of(some: list[Trade], each: Timeframe) -> list[Interval]:
    return each.align(Interval(t.timestamp, t.timestamp + timedelta(microseconds=1)) for t in some)


def test_the_first_refresh_makes_everything(each_engine: EngineLake) -> None:
    some = week_of_trades()
    lakes.add_trades(each_engine.lake, some)
    for report in refresh_all(each_engine):
        assert report.plan.reason == "the table has no watermark yet"
        assert report.plan.files_read == len(lakes.list_data_files(each_engine.lake.trades()))
        assert report.watermark_moved
    each_engine.assert_equal_to_trades(some)


def test_a_refresh_of_an_up_to_date_table_does_nothing(sail: EngineLake) -> None:
    start_week(sail)
    for report in refresh_all(sail):
        assert report.plan.is_current
        assert not report.committed
        assert report.partitions == ()


def test_new_trades_reach_their_windows_only(each_engine: EngineLake) -> None:
    """Late by days and in time alike: the dirty intervals are their windows, and no other file is read."""
    some = start_week(each_engine)
    more = [make_trade(1000, AT + timedelta(minutes=7)), make_trade(1001, AT + 3 * DAY)]
    lakes.add_trades(each_engine.lake, more)
    for each, report in zip(TIMEFRAMES, refresh_all(each_engine), strict=True):
        assert list(report.plan.intervals) == windows_of(more, each)
        assert report.counts.added + report.counts.changed == len({each.floor(t.timestamp) for t in more})
        assert report.counts.unchanged == 0
    each_engine.assert_equal_to_trades(some + more)


def test_no_trades_file_outside_the_dirty_intervals_is_read(sail: EngineLake) -> None:
    """Of the four files of trades, the engine may read the one that was added, and those that overlap it."""
    start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT + DAY + timedelta(minutes=7))])
    report = sail.refresh(MINUTE)
    assert report.plan.files_changed == 1
    read = [
        f
        for f in live_files(sail.lake.trades(), report.trades_snapshot)
        if any(f.span.intersect(i) for i in report.plan.intervals)
    ]
    assert report.plan.files_read == len(read) <= 2


def test_a_corrected_trade_in_a_rewritten_file_dirties_one_window(sail: EngineLake) -> None:
    """Copy-on-write replaces a whole day's file; comparing the two finds the one row that differs."""
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
    assert report.plan.files_changed == 2, "one that went and one that came"
    assert len(report.plan.intervals) == 1
    refresh_all(sail)
    sail.assert_equal_to_trades(lakes.all_trades(sail.lake))


def test_deleted_trades_take_their_candles_along(sail: EngineLake) -> None:
    start_week(sail)
    sail.lake.trades().delete(f"timestamp < '{(AT + DAY).isoformat()}'")
    report = sail.refresh(MINUTE)
    assert report.counts.removed == 48
    refresh_all(sail)
    sail.assert_equal_to_trades(lakes.all_trades(sail.lake))


def test_compaction_dirties_nothing(sail: EngineLake) -> None:
    """Files that hold the same rows in other files: the watermark moves, and no trades file is opened."""
    start_week(sail)
    table = sail.lake.trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    assert not preview_refresh(sail.lake, MINUTE).is_current, "the watermark has to move"
    for report in refresh_all(sail):
        assert report.plan.intervals == ()
        assert report.plan.files_read == 0
        assert report.watermark_moved
    assert preview_refresh(sail.lake, MINUTE).is_current


def test_what_came_before_a_compaction_is_not_lost_in_it(sail: EngineLake) -> None:
    """Trades appended, then compacted with old ones: exactly the appended ones' windows are dirty."""
    some = start_week(sail)
    more = [make_trade(1000, AT + timedelta(minutes=7))]
    lakes.add_trades(sail.lake, more)
    table = sail.lake.trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    lakes.add_trades(sail.lake, [make_trade(1001, AT + timedelta(minutes=70))])
    report = sail.refresh(MINUTE)
    assert list(report.plan.intervals) == windows_of(
        [*more, make_trade(1001, AT + timedelta(minutes=70))], MINUTE
    )
    refresh_all(sail)
    sail.assert_equal_to_trades([*some, *more, make_trade(1001, AT + timedelta(minutes=70))])


def test_what_went_after_a_compaction_is_not_hidden_by_it(sail: EngineLake) -> None:
    start_week(sail)
    table = sail.lake.trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    table = sail.lake.trades()
    table_history.rewrite_files(table, list(table.scan().plan_files()), lambda rows: rows[10:])
    refresh_all(sail)
    sail.assert_equal_to_trades(lakes.all_trades(sail.lake))


def test_what_went_after_a_compaction_of_several_days_is_not_hidden_by_it(sail: EngineLake) -> None:
    """A row goes before it and one after: a file in between, in neither snapshot, had the latter."""
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
    """The current snapshot is no descendant of the watermark's: still only what differs is recomputed."""
    some = start_week(sail)
    kept = table_history.current_snapshot_id(sail.lake.trades())
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    refresh_all(sail)
    table_history.roll_back(sail.lake.trades(), kept)
    lakes.add_trades(sail.lake, [make_trade(1001, AT + DAY)])
    report = sail.refresh(MINUTE)
    assert report.plan.reason is None
    assert list(report.plan.intervals) == windows_of(
        [make_trade(1000, AT), make_trade(1001, AT + DAY)], MINUTE
    )
    refresh_all(sail)
    sail.assert_equal_to_trades([*some, make_trade(1001, AT + DAY)])


def test_an_expired_snapshot_in_the_middle_loses_nothing(sail: EngineLake) -> None:
    some = start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    middle = table_history.current_snapshot_id(sail.lake.trades())
    lakes.add_trades(sail.lake, [make_trade(1001, AT + DAY)])
    table_history.expire_snapshot(sail.lake.trades(), middle)
    report = sail.refresh(MINUTE)
    assert report.plan.reason is None
    assert list(report.plan.intervals) == windows_of(
        [make_trade(1000, AT), make_trade(1001, AT + DAY)], MINUTE
    )
    refresh_all(sail)
    sail.assert_equal_to_trades([*some, make_trade(1000, AT), make_trade(1001, AT + DAY)])


def test_an_expired_watermark_means_everything_and_says_so(sail: EngineLake) -> None:
    some = start_week(sail)
    before = table_history.current_snapshot_id(sail.lake.trades())
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    table_history.expire_snapshot(sail.lake.trades(), before)
    report = sail.refresh(MINUTE)
    assert "has expired" in (report.plan.reason or "")
    assert (report.counts.changed, report.counts.unchanged) == (1, len(aggregate(some, MINUTE)) - 1)
    sail.assert_equal_to_trades([*some, make_trade(1000, AT)], MINUTE)


def test_a_replaced_trades_table_means_everything(sail: EngineLake) -> None:
    """Candles of days that the new table does not have go."""
    start_week(sail)
    sail.lake.catalog.drop_table(("market_data", "gold_crypto_trades"))
    fresh = [make_trade(1, AT + 9 * DAY)]
    lakes.add_trades(sail.lake, fresh)
    refresh_all(sail)
    sail.assert_equal_to_trades(fresh)


def test_many_scattered_trades_are_read_as_few_intervals(sail: EngineLake) -> None:
    some = start_week(sail)
    more = [make_trade(1000 + i, AT + timedelta(minutes=17 * i)) for i in range(150)]
    lakes.add_trades(sail.lake, more)
    report = sail.refresh(MINUTE)
    assert len(report.plan.intervals) <= 64
    assert is_covered(report.plan.intervals, windows_of(more, MINUTE))
    sail.assert_equal_to_trades(some + more, MINUTE)


def test_a_plan_says_ten_intervals_and_how_many_more(sail: EngineLake) -> None:
    start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000 + n, AT + timedelta(minutes=7 + 10 * n)) for n in range(13)])
    said = preview_refresh(sail.lake, MINUTE).lines()
    assert said[-1].strip() == "and 3 more"
    assert len(said) == 2 + 10 + 1


def test_untouched_windows_keep_their_clocks(sail: EngineLake) -> None:
    start_week(sail)
    before = lakes.read_frame(sail.lake, HOURLY)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    sail.refresh(HOURLY)
    both = before.join(lakes.read_frame(sail.lake, HOURLY), on=KEY_COLUMNS, suffix="_after")
    moved = both.filter(pl.col("updated_at") != pl.col("updated_at_after"))
    assert moved["window_start"].to_list() == [HOURLY.floor(AT)]
    assert (both["created_at"] == both["created_at_after"]).all()


def test_explaining_does_nothing(sail: EngineLake) -> None:
    start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    before = table_history.current_snapshot_id(sail.lake.candles(MINUTE))
    found = preview_refresh(sail.lake, MINUTE)
    assert not found.is_current
    assert found.as_json()["partitions"] == ["2024-02-28"]
    assert "1 trades files differ" in found.lines()[0]
    assert table_history.current_snapshot_id(sail.lake.candles(MINUTE)) == before


def test_a_rebuild_in_the_middle_of_a_refresh(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refresh starts over; what both have to do is done once, and nothing is lost."""
    some = start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])

    def others() -> None:
        lakes.add_trades(sail.lake, [make_trade(1001, AT + DAY)])
        sail.rebuild(MINUTE, [day_interval(AT)])

    calls = interrupt_windows(monkeypatch, others)
    report = sail.refresh(MINUTE)
    assert calls[0] == 2
    assert report.watermark_moved
    sail.assert_equal_to_trades([*some, make_trade(1000, AT), make_trade(1001, AT + DAY)], MINUTE)


def test_a_writer_that_appends_all_the_while(sail: EngineLake) -> None:
    """Trades that come after the pin are left for the next refresh, and the watermark does not claim them."""
    some = start_week(sail)
    lakes.add_trades(sail.lake, [make_trade(1000, AT)])
    late = make_trade(1001, AT)
    lake = Interrupted(sail.lake.catalog, actions=[lambda: lakes.add_trades(sail.lake, [late])])
    report = refresh(lake, sail.engine, MINUTE)
    mark = table_history.read_watermark(sail.lake.candles(MINUTE))
    assert mark.snapshot_id == report.trades_snapshot != table_history.current_snapshot_id(sail.lake.trades())
    sail.assert_equal_to_trades([*some, make_trade(1000, AT)], MINUTE)
    sail.refresh(MINUTE)
    sail.assert_equal_to_trades([*some, make_trade(1000, AT), late], MINUTE)


class Crash(Exception):  # noqa: N818 - it stands for a kill
    """The process is gone."""


class History(RuleBasedStateMachine):
    """Random histories of trades; after each refresh every table equals the trades as they are."""

    bench: EngineLake

    def __init__(self) -> None:
        super().__init__()
        lakes.drop_tables(self.bench.lake)
        self.number = 0

    @property
    def lake(self) -> Lake:
        return self.bench.lake

    def fresh(self, minutes: list[int]) -> list[Trade]:
        made = []
        for minute in minutes:
            self.number += 1
            made.append(make_trade(self.number, AT + timedelta(minutes=minute), str(self.number % 13 + 1)))
        return made

    def files(self, picks: list[int]) -> list:  # type: ignore[type-arg]
        tasks = sorted(self.lake.trades().scan().plan_files(), key=lambda t: t.file.file_path)
        return [tasks[i] for i in sorted({p % len(tasks) for p in picks})] if tasks else []

    @initialize(minutes=st.lists(st.integers(0, 4000), min_size=1, max_size=8))
    def begin(self, minutes: list[int]) -> None:
        lakes.add_trades(self.lake, self.fresh(minutes))

    @rule(minutes=st.lists(st.integers(0, 4000), min_size=1, max_size=5))
    def append(self, minutes: list[int]) -> None:
        lakes.add_trades(self.lake, self.fresh(minutes))

    @rule(picks=st.lists(st.integers(0, 9), min_size=1, max_size=3), drop=st.integers(0, 3))
    def correct(self, picks: list[int], drop: int) -> None:
        """Rewrite files with other quantities and without some rows."""
        if tasks := self.files(picks):
            twice = (
                pl.when(pl.int_range(pl.len()) == 0)
                .then(pl.col("quantity") + 1)
                .otherwise(pl.col("quantity"))
            )
            table_history.rewrite_files(
                self.lake.trades(),
                tasks,
                lambda r: r[drop:].with_columns(quantity=twice.cast(pl.Decimal(19, 8))),
            )

    @rule(minute=st.integers(0, 4000))
    def delete(self, minute: int) -> None:
        with pytest.warns(UserWarning, match="did not match") if not self.matches(minute) else _nothing():
            self.lake.trades().delete(f"timestamp < '{(AT + timedelta(minutes=minute)).isoformat()}'")

    def matches(self, minute: int) -> bool:
        return any(t.timestamp < AT + timedelta(minutes=minute) for t in lakes.all_trades(self.lake))

    @rule(picks=st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def compact(self, picks: list[int]) -> None:
        if tasks := self.files(picks):
            table_history.compact_files(self.lake.trades(), tasks)

    @rule(back=st.integers(1, 3))
    def rollback(self, back: int) -> None:
        table = self.lake.trades()
        chain = [table.current_snapshot()]
        while len(chain) <= back and chain[-1] and chain[-1].parent_snapshot_id:
            chain.append(table.snapshot_by_id(chain[-1].parent_snapshot_id))
        if chain[-1] is not None and len(chain) > 1:
            table_history.roll_back(table, chain[-1].snapshot_id)

    @rule(pick=st.integers(0, 99))
    def expire(self, pick: int) -> None:
        table = self.lake.trades()
        old = [
            s.snapshot_id
            for s in table.snapshots()
            if s.snapshot_id != table_history.current_snapshot_id(table)
        ]
        if old:
            table_history.expire_snapshot(table, old[pick % len(old)])

    @rule(each=st.sampled_from([MINUTE, DAILY]), days=st.integers(0, 3))
    def rebuild_some(self, each: Timeframe, days: int) -> None:
        self.bench.rebuild(each, [day_interval(AT + days * DAY)])

    @rule(each=st.sampled_from([MINUTE, DAILY]))
    def crash(self, each: Timeframe) -> None:
        """A refresh dies with all files written and nothing committed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pyiceberg.table.Transaction.commit_transaction", _crash)
            if not preview_refresh(self.lake, each).is_current:
                with pytest.raises(Crash):
                    self.bench.refresh(each)

    @rule(each=st.sampled_from([MINUTE, DAILY]))
    def refresh_one(self, each: Timeframe) -> None:
        before = lakes.read_frame(self.lake, each)
        report = self.bench.refresh(each)
        lakes.assert_equal_to_trades(self.lake, lakes.all_trades(self.lake), [each])
        untouched = before.filter(
            ~pl.any_horizontal(
                pl.lit(False),
                *(
                    (pl.col("window_start") >= i.start) & (pl.col("window_start") < i.end)
                    for i in report.plan.intervals
                ),
            )
        )
        after = lakes.read_frame(self.lake, each)
        assert untouched.join(after, on=[*KEY_COLUMNS, "updated_at", "created_at"], how="anti").is_empty()

    def teardown(self) -> None:
        for each in (MINUTE, DAILY):
            self.bench.refresh(each)
        lakes.assert_equal_to_trades(self.lake, lakes.all_trades(self.lake), [MINUTE, DAILY])


def _crash(_: object) -> None:
    raise Crash


def _nothing() -> Callable:  # type: ignore[type-arg]
    from contextlib import nullcontext

    return nullcontext()  # type: ignore[return-value]


def test_random_histories(sail: EngineLake) -> None:
    """Appends, corrections, deletes, compactions, rollbacks, expiry, rebuilds, crashes, in any order."""
    History.bench = sail
    run_state_machine_as_test(History, settings=settings(max_examples=12, stateful_step_count=12))
