"""The progress of a rebuild: partitions done, trades a second, time left."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.operations import plan_chunks
from k2_ohlcv.operations.plan import Plan
from k2_ohlcv.operations.run_progress import ProgressMeter, RunProgress
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import make_trade

START = datetime(2024, 2, 1, tzinfo=UTC)
MINUTE = find_timeframe("1m")


def days(first: int, end: float) -> Interval:
    return Interval(START + first * DAY, START + end * DAY)


def estimate(intervals: Sequence[Interval]) -> float:
    """A thousand trades a day."""
    return sum(1_000 * ((i.end - i.start) / DAY) for i in intervals)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_partitions_trades_a_second_and_time_left() -> None:
    """Time left is the estimated trades that are left, at the rate of those done."""
    shown: list[RunProgress] = []
    clock = Clock()
    plan = Plan(MINUTE, 1, 2, (days(0, 10),), WindowSelection((days(0, 10),)), (), None)
    meter = ProgressMeter(plan, estimate, shown.append, clock)
    clock.now += 20
    meter.add_commit([days(0, 2.5)], 2_000)
    clock.now += 60
    meter.add_commit([Interval(days(0, 2.5).end, days(0, 10).end)], 10_000)
    assert [str(progress) for progress in shown] == [
        "gold_ohlcv_1m: 0 of 10 partitions",
        "gold_ohlcv_1m: 2 of 10 partitions, 100 trades/s, 0:01:00 left",
        "gold_ohlcv_1m: 10 of 10 partitions, 150 trades/s, 0:00:00 left",
    ]
    assert shown[1].as_json() == {
        "table": "gold_ohlcv_1m",
        "partitions_done": 2,
        "partitions": 10,
        "trades": 2_000,
        "trades_per_second": 100,
        "seconds_left": 60,
    }


def test_a_partition_is_done_with_its_last_planned_window() -> None:
    """A refresh of some windows of two days. Nothing is known about their trades."""
    shown: list[RunProgress] = []
    hour = timedelta(hours=1)
    windows = [Interval(START, START + hour), Interval(START + DAY, START + DAY + hour)]
    plan = Plan(MINUTE, 1, 2, tuple(windows), WindowSelection(tuple(windows)), (), None)
    meter = ProgressMeter(plan, lambda _: 0.0, shown.append, Clock())
    for window in windows:
        meter.add_commit([window], 0)
    assert [progress.partitions_done for progress in shown] == [0, 1, 2]
    assert str(shown[-1]) == "gold_ohlcv_1m: 2 of 2 partitions"


def test_a_rebuild_tells_its_progress_after_each_commit(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six days of ten trades in commits of two days."""
    monkeypatch.setattr(plan_chunks, "MAX_CHUNK_TRADES", 20)
    trades = [
        make_trade(f"{day}-{i}", START + day * DAY + timedelta(minutes=i))
        for day in range(6)
        for i in range(10)
    ]
    lakes.add_trades(sail.lake, trades)
    shown: list[RunProgress] = []
    sail.rebuild(MINUTE, progress=shown.append)
    assert [(p.partitions_done, p.partitions, p.trades) for p in shown] == [
        (0, 6, 0),
        (2, 6, 20),
        (4, 6, 40),
        (6, 6, 60),
    ]
    assert shown[-1].expected == shown[-1].expected_done
