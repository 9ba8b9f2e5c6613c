"""The command line: `python -m k2_ohlcv_tests.system.simulator --seed 7 --steps 200`."""

import logging
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import structlog
import typer

from k2_ohlcv.engine.session import open_engine
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.system.simulator.life import LifeError, play
from k2_ohlcv_tests.system.simulator.world import WrongError


def simulate(
    seed: Annotated[int, typer.Option(help="The first life's seed; the next ones' count on from it.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a life.")] = 200,
    lives: Annotated[int, typer.Option(min=1, help="Lives, one after another.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the lives.")] = 1,
) -> None:
    """Play lives of a lake; ends with exit code 1 where something goes wrong, and prints how."""
    seeds, started = range(seed, seed + lives), time.monotonic()
    wrong = _shared(seeds, steps, processes) if processes > 1 else _played(seeds, steps)
    passed = "something went wrong" if wrong else "all came out right"
    print(f"{lives} lives of {steps} steps in {time.monotonic() - started:.0f} s: {passed}")
    raise typer.Exit(1 if wrong else 0)


def _shared(seeds: range, steps: int, processes: int) -> int:
    """Processes of this same program, each with its share of the seeds; how many of them failed."""
    shares = [
        seeds[i * len(seeds) // processes : (i + 1) * len(seeds) // processes] for i in range(processes)
    ]
    program = [sys.executable, "-m", str(__package__), "--steps", str(steps)]
    started = [
        subprocess.Popen([*program, "--seed", str(share.start), "--lives", str(len(share))])
        for share in shares
        if share
    ]
    return sum(process.wait() != 0 for process in started)


def _played(seeds: range, steps: int) -> int:
    """Play lives on one engine; how many went wrong."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    warnings.simplefilter("ignore")  # PyIceberg's, at deletes that match nothing
    wrong = 0
    with TemporaryDirectory() as home, open_engine(lakes.lake_settings(Path(home))) as engine:
        for seed in seeds:
            started = time.monotonic()
            try:
                list(play(engine, [seed], steps))
            except LifeError as error:
                wrong += 1
                print(f"seed {seed}: {error}", flush=True)
                if not isinstance(error.__cause__, WrongError):
                    traceback.print_exception(error.__cause__)
            else:
                print(
                    f"seed {seed}: right after {steps} steps, {time.monotonic() - started:.0f} s", flush=True
                )
    return wrong


app = typer.Typer(add_completion=False)
app.command()(simulate)

if __name__ == "__main__":
    app(prog_name="python -m k2_ohlcv_tests.system.simulator")
