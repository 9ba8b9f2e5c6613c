"""One life: seeded steps with faults and interleavings, until a check fails or the last step is done."""

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
    """Advance the clock by some days. New trades are of the next days."""
    world.today += world.rng.choice([1, 1, 2]) * DAY


Step = Callable[[World], None]
#: Commands of the project with their weights. Faults and other writers may interrupt them.
COMMANDS: dict[str, tuple[Step, int]] = {
    "ingest": (commands.ingest, 20),
    "refresh": (commands.refresh, 25),
    "rebuild": (commands.rebuild, 4),
    "rebuild some": (commands.rebuild_some, 4),
    "retention": (commands.retention, 4),
}
#: Steps of other writers and of the clock, with their weights.
EXTERNAL_STEPS: dict[str, tuple[Step, int]] = {
    "append": (external_writers.append, 8),
    "overwrite": (external_writers.overwrite, 5),
    "delete": (external_writers.delete, 4),
    "spoil": (external_writers.spoil, 2),
    "remove invalid": (commands.remove_invalid, 4),
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
#: The limit on trades of one commit of a refresh. Small commits have a part of a day.
SMALL_COMMITS = "k2_ohlcv.operations.plan_chunks.MAX_CHUNK_TRADES"
#: One of this many commands has a fault.
COMMANDS_PER_FAULT = 3


class LifeError(AssertionError):
    """A life failed. The message has the seed and the last steps."""


@dataclass
class Life:
    """The steps of one seed."""

    seed: int
    world: World
    log: list[str] = field(default_factory=list)

    def run(self, steps: int) -> None:
        """Take the steps, then refresh all tables without faults. They must then equal the trades."""
        try:
            for number in range(steps):
                self._step(number)
            self._end()
        except Exception as error:
            log = "\n".join(f"  {line}" for line in self.log[-40:])
            raise LifeError(
                f"{error}\n{log}\nTo repeat: python -m k2_ohlcv_tests.system.simulator "
                f"--seed {self.seed} --steps {steps}"
            ) from error

    def _step(self, number: int) -> None:
        self.world.rng = rng = Random(f"{self.seed} {number}")
        name = "ingest" if number == 0 else self._choose(rng, COMMANDS | EXTERNAL_STEPS)
        if name in COMMANDS and number:
            self._run_command(name, rng, number)
        else:
            self.log.append(f"{number} {name}")
            (COMMANDS | EXTERNAL_STEPS)[name][0](self.world)
        self.world.check_honest(rng.choice(TIMEFRAMES))

    def _choose(self, rng: Random, kinds: dict[str, tuple[Step, int]]) -> str:
        return rng.choices(list(kinds), [weight for _, weight in kinds.values()])[0]

    def _run_command(self, name: str, rng: Random, number: int) -> None:
        """Run a command, sometimes with a fault. It may raise only the errors that the fault allows."""
        world, fault = self.world, self._fault(rng)
        self.log.append(f"{number} {name}" + (f", {fault}" if fault else ""))
        world.base, world.interruptions, world.check = world.model.trades, 0, lambda: None
        world.hooks.interrupt = lambda: self._interrupt(rng)
        world.hooks.armed = fault
        small = rng.random() < 0.5
        try:
            with patch(SMALL_COMMITS, 10) if small else nullcontext():
                COMMANDS[name][0](world)
        except BaseException as error:
            if fault is None or not fault.happened or not isinstance(error, ALLOWED[fault.effect]):
                raise
            self.log.append(f"    {type(error).__name__}: {str(error)[:200]}")
            if isinstance(error, Killed):
                world.reopen()
        finally:
            world.hooks.armed = None

    def _fault(self, rng: Random) -> Fault | None:
        if rng.randrange(COMMANDS_PER_FAULT):
            return None
        point = rng.choice(list(EFFECTS))
        return Fault(point, rng.choice(EFFECTS[point]), rng.choice([1, 1, 2, 3, 5]))

    def _interrupt(self, rng: Random) -> None:
        """A step of another writer during a command."""
        name = self._choose(
            rng, {**EXTERNAL_STEPS, "refresh": COMMANDS["refresh"], "rebuild": COMMANDS["rebuild"]}
        )
        self.log.append(f"    meanwhile {name}")
        world = self.world
        world.check()
        (COMMANDS | EXTERNAL_STEPS)[name][0](world)
        world.interruptions += 1
        world.base = world.model.trades

    def _end(self) -> None:
        self.log.append("end: refresh all tables")
        self.world.hooks.armed = None
        commands.remove_invalid(self.world)
        for timeframe in TIMEFRAMES:
            commands.refresh_one(self.world, timeframe)
            self.world.check_equal(timeframe)


@contextmanager
def world(engine: Engine) -> Iterator[World]:
    """A new lake, with wrapped catalog calls and without pauses."""
    hooks = Hooks()
    # Settings of this machine are removed. Pauses only spread writers, so they are skipped.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYICEBERG_CATALOG__")
    }
    with (
        TemporaryDirectory(prefix="k2-simulator-", ignore_cleanup_errors=True) as home,
        patch.dict(os.environ, environment, clear=True),
        patch("time.sleep"),
        hooks.install(),
    ):
        yield World(Path(home), engine, Random(0), hooks)


def play(engine: Engine, seeds: Iterable[int], steps: int) -> Iterator[Life]:
    """One life after another."""
    for seed in seeds:
        with world(engine) as opened:
            life = Life(seed, opened)
            life.run(steps)
            yield life
