"""Short lives of a lake: a table that is reported as up to date always equals the trades.

`make soak` plays long lives. The scripts at the end are losses that other systems have published.
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
from k2_ohlcv_tests.system.simulator.world import UnexpectedStateError, World

pytestmark = pytest.mark.system

#: Each takes a few seconds. Bugs that other seeds found have their own tests beside the code.
SEEDS = (3, 4, 5)
STEPS = 60
NO_RETENTION = RetentionPolicy({timeframe.name: None for timeframe in TIMEFRAMES}, None, 0 * DAY)


@pytest.mark.filterwarnings("ignore:Delete operation did not match any records")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_life_passes_all_checks(sail: EngineLake, seed: int) -> None:
    (life,) = play(sail.engine, [seed], STEPS)
    assert len(life.log) > STEPS


def test_a_seed_always_gives_the_same_life(sail: EngineLake) -> None:
    """Steps, faults and interleavings are the same each time."""
    logs = [[line for line in life.log if "Error" not in line] for life in play(sail.engine, [4, 4], 25)]
    assert logs[0] == logs[1]


def test_a_failed_life_is_an_error_with_its_seed(sail: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh that does nothing is detected. The message has the command that repeats the life."""
    monkeypatch.setattr(commands, "refresh_table", lambda *_, **__: None)
    with pytest.raises(LifeError, match=r"--seed 4 --steps 25") as caught:
        list(play(sail.engine, [4], 25))
    assert "0 ingest" in str(caught.value)


@pytest.fixture
def filled(sail: EngineLake) -> Iterator[World]:
    """A lake with trades in many files, and with all their candles."""
    with world(sail.engine) as opened:
        for _ in range(MIN_SMALL_FILES):
            external_writers.append(opened)
        for timeframe in TIMEFRAMES:
            commands.refresh_one(opened, timeframe)
        yield opened


def interrupt_at(filled: World, point: str, step: Callable[[World], None]) -> None:
    """Let another writer take a step at a point of the next command."""

    def interrupt() -> None:
        filled.check()
        step(filled)
        filled.interruptions += 1
        filled.base = filled.model.trades

    filled.hooks.interrupt, filled.hooks.armed = interrupt, Fault(point, "interrupt")


def assert_refresh_is_right(filled: World) -> None:
    filled.hooks.armed = None
    for timeframe in TIMEFRAMES:
        commands.refresh_one(filled, timeframe)
        filled.check_equal(timeframe)


def delete_a_day(filled: World) -> None:
    table = filled.table()
    assert table is not None
    table.delete(f"timestamp >= '{filled.today.isoformat()}'")
    filled.note_trades()


@pytest.mark.parametrize("point", ["load", "before commit", "after commit"])
def test_a_compaction_beside_a_delete_restores_no_row(filled: World, point: str) -> None:
    """The compaction has read a day that another writer deletes. The rows stay deleted."""
    interrupt_at(filled, point, delete_a_day)
    commands.check_dropped(filled)
    retention(filled.lake, NO_RETENTION, apply=True)
    assert filled.interruptions == 1
    commands.check_dropped(filled)
    assert not any(t.timestamp >= filled.today for t in filled.live())
    assert_refresh_is_right(filled)


def test_an_external_compaction_beside_an_ingestion_loses_no_trade(filled: World) -> None:
    """The other writer reads files before an append and commits after it. The commit fails or keeps both."""
    stale = filled.table()
    assert stale is not None
    tasks = list(stale.scan().plan_files())
    commands.ingest(filled)
    before = filled.live()
    with suppress(*CONFLICT_ERRORS):
        table_history.compact_files(stale, tasks)
    filled.note_trades()
    assert filled.live() == before
    assert_refresh_is_right(filled)


@pytest.mark.parametrize("point", ["load", "before commit", "after commit"])
def test_an_expiry_beside_an_append_keeps_the_newer_snapshot(filled: World, point: str) -> None:
    """Retention expires all old snapshots during an append. The newest snapshot keeps its files."""
    before = filled.live()
    interrupt_at(filled, point, external_writers.append)
    retention(filled.lake, NO_RETENTION, apply=True)
    assert filled.interruptions == 1
    assert filled.live() > before
    assert_refresh_is_right(filled)


def overwrite_a_day(filled: World) -> None:
    """Replace a day as an insert-overwrite does: a delete and an append, in two snapshots."""
    delete_a_day(filled)
    external_writers.append(filled)


@pytest.mark.parametrize("point", ["load", "before commit", "after commit"])
def test_an_ingestion_beside_an_insert_overwrite_keeps_both(filled: World, point: str) -> None:
    """Both commits are stored in any order. No overwritten row is restored."""
    interrupt_at(filled, point, overwrite_a_day)
    commands.ingest(filled)
    assert filled.interruptions == 1
    assert_refresh_is_right(filled)


@pytest.mark.parametrize("point", ["load", "before commit", "after commit"])
def test_a_rebuild_beside_an_insert_overwrite_is_not_reported_as_current(filled: World, point: str) -> None:
    """Candles of overwritten rows are not reported as up to date."""
    interrupt_at(filled, point, overwrite_a_day)
    commands.rebuild(filled)
    for timeframe in TIMEFRAMES:
        filled.check_honest(timeframe)
    assert_refresh_is_right(filled)


def test_the_simulator_detects_a_lost_trade(filled: World) -> None:
    """A trade that an ingestion loses is an error."""
    filled.base = filled.model.trades + type(filled.base)([filled.trade()])
    with pytest.raises(UnexpectedStateError, match="lost 1 trades"):
        commands.check_added(filled, [])


def test_a_deleted_trade_that_only_a_rebuild_read_loses_its_candle(sail: EngineLake) -> None:
    """The trade was added after the watermark and deleted before the next refresh."""
    with world(sail.engine) as opened:
        minute = TIMEFRAMES[0]
        table = opened.lake.writable_trades()
        old, brief, late = (opened.trade(0, opened.today + i * timedelta(hours=1)) for i in range(3))
        table.append(lakes.to_trades_rows(table, [old]))
        refresh(opened.lake, opened.engine, minute)
        table.append(lakes.to_trades_rows(table, [brief]))
        table.append(lakes.to_trades_rows(table, [replace(late, timestamp=late.timestamp - DAY)]))
        rebuild(opened.lake, opened.engine, minute, [minute.grain.partition(opened.today)])
        table.delete(f"trade_id = '{brief.trade_id}'")
        refresh(opened.lake, opened.engine, minute)
        opened.note_trades()
        opened.check_honest(minute)
