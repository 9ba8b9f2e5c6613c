"""Lives of a lake, short ones: whatever happens, a table that is called up to date equals the trades.

`make soak` plays long ones. The scripts at the end are losses that other systems have published.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.retention import MIN_SMALL_FILES, RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake.retry import CONFLICT_ERRORS
from k2_ohlcv.operations.reconcile import rebuild, refresh
from k2_ohlcv.operations.retention import retention
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.system.simulator import commands, external_writers
from k2_ohlcv_tests.system.simulator.faults import Fault
from k2_ohlcv_tests.system.simulator.life import LifeError, play, world
from k2_ohlcv_tests.system.simulator.world import World, WrongError

pytestmark = pytest.mark.system

#: A few seconds each; what took a seed to find has a test of its own beside the code that it is about.
SEEDS = (3, 4, 5)
STEPS = 60
KEPT_FOR_GOOD = RetentionPolicy({each.name: None for each in TIMEFRAMES}, None, 0 * DAY)


@pytest.mark.filterwarnings("ignore:Delete operation did not match any records")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_life_comes_out_right(sail: EngineLake, seed: int) -> None:
    (life,) = play(sail.engine, [seed], STEPS)
    assert len(life.told) > STEPS


def test_one_seed_is_one_life(sail: EngineLake) -> None:
    """The same steps, faults and interleavings, each time."""
    told = [[line for line in life.told if "Error" not in line] for life in play(sail.engine, [4, 4], 25)]
    assert told[0] == told[1]


def test_what_goes_wrong_is_told_with_its_seed(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh that does nothing and says nothing is caught; the message says how to see it again."""
    monkeypatch.setattr(commands, "refresh_table", lambda *_, **__: None)
    with pytest.raises(LifeError, match=r"--seed 4 --steps 25") as caught:
        list(play(sail.engine, [4], 25))
    assert "0 ingest" in str(caught.value)


@pytest.fixture
def lived(sail: EngineLake) -> Iterator[World]:
    """A lake with trades in many files, and candles of all."""
    with world(sail.engine) as found:
        for _ in range(MIN_SMALL_FILES):
            external_writers.append(found)
        for timeframe in TIMEFRAMES:
            commands.refresh_one(found, timeframe)
        yield found


def between(lived: World, point: str, happens: Callable[[World], None]) -> None:
    """Have another writer do something at a point of the next command."""

    def other() -> None:
        lived.check()
        happens(lived)
        lived.others += 1
        lived.base = lived.model.trades

    lived.hooks.other, lived.hooks.armed = other, Fault(point, "other")


def assert_right(lived: World) -> None:
    lived.hooks.armed = None
    for timeframe in TIMEFRAMES:
        commands.refresh_one(lived, timeframe)
        lived.check_equal(timeframe)


def delete_a_day(lived: World) -> None:
    table = lived.table()
    assert table is not None
    table.delete(f"timestamp >= '{lived.today.isoformat()}'")
    lived.note_trades()


@pytest.mark.parametrize("point", ["load", "before commit", "after commit"])
def test_a_rewrite_beside_a_delete_brings_nothing_back(lived: World, point: str) -> None:
    """Our compaction has read a day that another writer deletes: its rows stay deleted."""
    between(lived, point, delete_a_day)
    commands.check_dropped(lived)
    retention(lived.lake, KEPT_FOR_GOOD, apply=True)
    assert lived.others == 1
    commands.check_dropped(lived)
    assert not any(t.timestamp >= lived.today for t in lived.live())
    assert_right(lived)


def test_a_rewrite_of_theirs_beside_an_ingestion_loses_nothing(lived: World) -> None:
    """They read files, we append, they commit what they read: they are refused, or both are in."""
    stale = lived.table()
    assert stale is not None
    tasks = list(stale.scan().plan_files())
    commands.ingest(lived)
    before = lived.live()
    with suppress(*CONFLICT_ERRORS):
        table_history.compact_files(stale, tasks)
    lived.note_trades()
    assert lived.live() == before
    assert_right(lived)


@pytest.mark.parametrize("point", ["load", "before commit", "after commit"])
def test_an_expiry_beside_an_append_keeps_the_newer_snapshot(lived: World, point: str) -> None:
    """Retention expires all old snapshots while trades come: the newest snapshot and its files stay."""
    before = lived.live()
    between(lived, point, external_writers.append)
    retention(lived.lake, KEPT_FOR_GOOD, apply=True)
    assert lived.others == 1
    assert lived.live() > before
    assert_right(lived)


def overwrite_a_day(lived: World) -> None:
    """What an insert-overwrite does: the partition goes, and other rows come, in two snapshots."""
    delete_a_day(lived)
    external_writers.append(lived)


@pytest.mark.parametrize("point", ["load", "before commit", "after commit"])
def test_an_insert_beside_an_insert_overwrite(lived: World, point: str) -> None:
    """Both are in, whoever was first; no row that was overwritten comes back."""
    between(lived, point, overwrite_a_day)
    commands.ingest(lived)
    assert lived.others == 1
    assert_right(lived)


@pytest.mark.parametrize("point", ["load", "before commit", "after commit"])
def test_a_rebuild_beside_an_insert_overwrite(lived: World, point: str) -> None:
    """Candles computed from the overwritten rows are not called up to date."""
    between(lived, point, overwrite_a_day)
    commands.rebuild(lived)
    for timeframe in TIMEFRAMES:
        lived.check_honest(timeframe)
    assert_right(lived)


def test_a_lost_trade_would_be_noticed(lived: World) -> None:
    """The simulator's own eyes: a trade that an ingestion loses is an error."""
    lived.base = lived.model.trades + type(lived.base)([lived.trade()])
    with pytest.raises(WrongError, match="lost 1 trades"):
        commands.check_added(lived, [])


def test_a_trade_that_only_a_rebuild_saw_goes_with_its_candle(sail: EngineLake) -> None:
    """It came after the watermark and went before the next refresh: no difference names its window."""
    with world(sail.engine) as found:
        minute = TIMEFRAMES[0]
        table = found.lake.writable_trades()
        old, brief, late = (found.trade(0, found.today + i * timedelta(hours=1)) for i in range(3))
        table.append(lakes.to_trades_rows(table, [old]))
        refresh(found.lake, found.engine, minute)
        table.append(lakes.to_trades_rows(table, [brief]))
        table.append(lakes.to_trades_rows(table, [replace(late, timestamp=late.timestamp - DAY)]))
        rebuild(found.lake, found.engine, minute, [minute.grain.partition(found.today)])
        table.delete(f"trade_id = '{brief.trade_id}'")
        refresh(found.lake, found.engine, minute)
        found.note_trades()
        found.check_honest(minute)
