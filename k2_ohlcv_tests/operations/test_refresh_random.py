"""Random histories of a trades table, each followed by a refresh."""

from contextlib import nullcontext
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from k2_ohlcv.domain.candle import KEY_COLUMNS, Trade
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import DAILY, MINUTE, day_interval
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade


class Crash(Exception):  # noqa: N818 - it simulates a killed process
    """The process ends."""


class History(RuleBasedStateMachine):
    """Random changes of trades. After each refresh every table equals the live trades."""

    bench: EngineLake

    def __init__(self) -> None:
        super().__init__()
        lakes.drop_tables(self.bench.lake)
        self.number = 0

    @property
    def lake(self) -> Lake:
        return self.bench.lake

    def make_trades(self, minutes: list[int]) -> list[Trade]:
        new_trades = []
        for minute in minutes:
            self.number += 1
            new_trades.append(
                make_trade(self.number, AT + timedelta(minutes=minute), str(self.number % 13 + 1))
            )
        return new_trades

    def files(self, file_numbers: list[int]) -> list:  # type: ignore[type-arg]
        tasks = sorted(self.lake.trades().scan().plan_files(), key=lambda t: t.file.file_path)
        return [tasks[i] for i in sorted({p % len(tasks) for p in file_numbers})] if tasks else []

    @initialize(minutes=st.lists(st.integers(0, 4000), min_size=1, max_size=8))
    def begin(self, minutes: list[int]) -> None:
        lakes.add_trades(self.lake, self.make_trades(minutes))

    @rule(minutes=st.lists(st.integers(0, 4000), min_size=1, max_size=5))
    def append(self, minutes: list[int]) -> None:
        lakes.add_trades(self.lake, self.make_trades(minutes))

    @rule(file_numbers=st.lists(st.integers(0, 9), min_size=1, max_size=3), drop=st.integers(0, 3))
    def correct(self, file_numbers: list[int], drop: int) -> None:
        """Rewrite files with other quantities and without some rows."""
        if tasks := self.files(file_numbers):
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
        with pytest.warns(UserWarning, match="did not match") if not self.matches(minute) else nullcontext():
            self.lake.trades().delete(f"timestamp < '{(AT + timedelta(minutes=minute)).isoformat()}'")

    def matches(self, minute: int) -> bool:
        return any(t.timestamp < AT + timedelta(minutes=minute) for t in lakes.all_trades(self.lake))

    @rule(file_numbers=st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def compact(self, file_numbers: list[int]) -> None:
        if tasks := self.files(file_numbers):
            table_history.compact_files(self.lake.trades(), tasks)

    @rule(back=st.integers(1, 3))
    def rollback(self, back: int) -> None:
        table = self.lake.trades()
        ancestors = [table.current_snapshot()]
        while len(ancestors) <= back and ancestors[-1] and ancestors[-1].parent_snapshot_id:
            ancestors.append(table.snapshot_by_id(ancestors[-1].parent_snapshot_id))
        if ancestors[-1] is not None and len(ancestors) > 1:
            table_history.roll_back(table, ancestors[-1].snapshot_id)

    @rule(pick=st.integers(0, 99))
    def expire(self, pick: int) -> None:
        table = self.lake.trades()
        earlier_ids = [
            s.snapshot_id
            for s in table.snapshots()
            if s.snapshot_id != table_history.current_snapshot_id(table)
        ]
        if earlier_ids:
            table_history.expire_snapshot(table, earlier_ids[pick % len(earlier_ids)])

    @rule(timeframe=st.sampled_from([MINUTE, DAILY]), days=st.integers(0, 3))
    def rebuild_some(self, timeframe: Timeframe, days: int) -> None:
        self.bench.rebuild(timeframe, [day_interval(AT + days * DAY)])

    @rule(timeframe=st.sampled_from([MINUTE, DAILY]))
    def crash(self, timeframe: Timeframe) -> None:
        """Kill a refresh after it has written its files and before it commits."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pyiceberg.table.Transaction.commit_transaction", _crash)
            if not preview_refresh(self.lake, timeframe).is_current:
                with pytest.raises(Crash):
                    self.bench.refresh(timeframe)

    @rule(timeframe=st.sampled_from([MINUTE, DAILY]))
    def refresh_one(self, timeframe: Timeframe) -> None:
        before = lakes.read_frame(self.lake, timeframe)
        report = self.bench.refresh(timeframe)
        lakes.assert_equal_to_trades(self.lake, lakes.all_trades(self.lake), [timeframe])
        untouched = before.filter(
            ~pl.any_horizontal(
                pl.lit(False),
                *(
                    (pl.col("window_start") >= i.start) & (pl.col("window_start") < i.end)
                    for i in report.plan.intervals
                ),
            )
        )
        after = lakes.read_frame(self.lake, timeframe)
        assert untouched.join(after, on=[*KEY_COLUMNS, "updated_at", "created_at"], how="anti").is_empty()

    def teardown(self) -> None:
        for timeframe in (MINUTE, DAILY):
            self.bench.refresh(timeframe)
        lakes.assert_equal_to_trades(self.lake, lakes.all_trades(self.lake), [MINUTE, DAILY])


def _crash(_: object) -> None:
    raise Crash


def test_random_histories(sail: EngineLake) -> None:
    """Appends, corrections, deletes, compactions, rollbacks, expiry and crashes, in random order."""
    History.bench = sail
    run_state_machine_as_test(History, settings=settings(max_examples=12, stateful_step_count=12))
