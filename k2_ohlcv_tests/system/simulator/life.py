"""One life: seeded steps with faults and interleavings, until something is wrong or the end is reached."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest.mock import patch

from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.session import Engine
from k2_ohlcv_tests.system.simulator import commands, external_writers
from k2_ohlcv_tests.system.simulator.faults import ALLOWED, EFFECTS, Fault, Hooks, Killed
from k2_ohlcv_tests.system.simulator.world import World


def tomorrow(world: World) -> None:
    """The clock jumps: trades come from the next days on."""
    world.today += world.rng.choice([1, 1, 2]) * DAY


Step = Callable[[World], None]
#: Commands of ours, which faults strike and others interrupt, by how often they come.
OURS: dict[str, tuple[Step, int]] = {
    "ingest": (commands.ingest, 20),
    "refresh": (commands.refresh, 25),
    "rebuild": (commands.rebuild, 4),
    "rebuild some": (commands.rebuild_some, 4),
    "retention": (commands.retention, 4),
}
#: What others do, and the clock.
OTHERS: dict[str, tuple[Step, int]] = {
    "append": (external_writers.append, 8),
    "overwrite": (external_writers.overwrite, 5),
    "delete": (external_writers.delete, 4),
    "spoil": (external_writers.spoil, 2),
    "remove unfit": (commands.remove_unfit, 4),
    "delete rows": (external_writers.delete_rows, 3),
    "compact": (external_writers.compact, 4),
    "roll back": (external_writers.roll_back, 3),
    "expire": (external_writers.expire, 4),
    "tomorrow": (tomorrow, 2),
    "add back": (external_writers.add_back, 2),
    "rename": (external_writers.rename, 2),
    "recreate": (external_writers.recreate, 1),
    "roll back candles": (external_writers.roll_back_candles, 3),
    "change candles": (external_writers.change_candles, 4),
}
#: The bound of a refresh's commits where they are small: each is a partition then.
SMALL_COMMITS = "k2_ohlcv.operations.plan_chunks.MAX_CHUNK_PARTITIONS"
#: Of so many commands of ours, one meets a fault.
FAULTS = 3


class LifeError(AssertionError):
    """A life went wrong: the seed, and every step up to there."""


@dataclass
class Life:
    """What one seed makes, step by step."""

    seed: int
    world: World
    told: list[str] = field(default_factory=list)

    def run(self, steps: int) -> None:
        """Take the steps, then refresh everything without faults: all must be right then."""
        try:
            for number in range(steps):
                self._step(number)
            self._end()
        except Exception as error:
            told = "\n".join(f"  {line}" for line in self.told[-40:])
            raise LifeError(
                f"{error}\n{told}\nPlay it again: python -m k2_ohlcv_tests.system.simulator "
                f"--seed {self.seed} --steps {steps}"
            ) from error

    def _step(self, number: int) -> None:
        self.world.rng = rng = Random(f"{self.seed} {number}")
        name = "ingest" if number == 0 else self._choose(rng, OURS | OTHERS)
        if name in OURS and number:
            self._ours(name, rng, number)
        else:
            self.told.append(f"{number} {name}")
            (OURS | OTHERS)[name][0](self.world)
        self.world.check_honest(rng.choice(TIMEFRAMES))

    def _choose(self, rng: Random, kinds: dict[str, tuple[Step, int]]) -> str:
        return rng.choices(list(kinds), [often for _, often in kinds.values()])[0]

    def _ours(self, name: str, rng: Random, number: int) -> None:
        """A command of ours, met by a fault now and then; only what the fault allows may come of it."""
        world, fault = self.world, self._fault(rng)
        self.told.append(f"{number} {name}" + (f", {fault}" if fault else ""))
        world.base, world.others, world.check = world.model.trades, 0, lambda: None
        world.hooks.other = lambda: self._between(rng)
        world.hooks.armed = fault
        small = rng.random() < 0.5
        try:
            with patch(SMALL_COMMITS, 1) if small else nullcontext():
                OURS[name][0](world)
        except BaseException as error:
            if fault is None or not fault.happened or not isinstance(error, ALLOWED[fault.effect]):
                raise
            self.told.append(f"    {type(error).__name__}: {str(error)[:200]}")
            if isinstance(error, Killed):
                world.reopen()
        finally:
            world.hooks.armed = None

    def _fault(self, rng: Random) -> Fault | None:
        if rng.randrange(FAULTS):
            return None
        point = rng.choice(list(EFFECTS))
        return Fault(point, rng.choice(EFFECTS[point]), rng.choice([1, 1, 2, 3, 5]))

    def _between(self, rng: Random) -> None:
        """Somebody else's step within one of ours."""
        name = self._choose(rng, {**OTHERS, "refresh": OURS["refresh"], "rebuild": OURS["rebuild"]})
        self.told.append(f"    meanwhile {name}")
        world = self.world
        world.check()
        (OURS | OTHERS)[name][0](world)
        world.others += 1
        world.base = world.model.trades

    def _end(self) -> None:
        self.told.append("end: refresh everything")
        self.world.hooks.armed = None
        commands.remove_unfit(self.world)
        for timeframe in TIMEFRAMES:
            commands.refresh_one(self.world, timeframe)
            self.world.check_equal(timeframe)


@contextmanager
def world(engine: Engine) -> Iterator[World]:
    """A new lake, with hooks in the catalog's calls and no pauses."""
    hooks = Hooks()
    # No configuration of this machine's, and no waiting: pauses spread writers, and guard nothing.
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("PYICEBERG_CATALOG__")}
    with (
        TemporaryDirectory(prefix="k2-simulator-", ignore_cleanup_errors=True) as home,
        patch.dict(os.environ, quiet, clear=True),
        patch("time.sleep"),
        hooks.installed(),
    ):
        yield World(Path(home), engine, Random(0), hooks)


def play(engine: Engine, seeds: Iterable[int], steps: int) -> Iterator[Life]:
    """One life after another."""
    for seed in seeds:
        with world(engine) as found:
            life = Life(seed, found)
            life.run(steps)
            yield life
