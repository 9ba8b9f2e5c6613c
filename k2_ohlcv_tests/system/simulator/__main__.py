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
from k2_ohlcv_tests.system.simulator.world import UnexpectedStateError


def simulate(
    seed: Annotated[int, typer.Option(help="Seed of the first life; the next lives count up.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a life.")] = 200,
    lives: Annotated[int, typer.Option(min=1, help="Lives, one after another.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the lives.")] = 1,
) -> None:
    """Play lives of a lake. Exit with code 1 if one fails, and print its steps."""
    seeds, started = range(seed, seed + lives), time.monotonic()
    failed = _play_in_processes(seeds, steps, processes) if processes > 1 else _play_lives(seeds, steps)
    outcome = "some failed" if failed else "all passed"
    print(f"{lives} lives of {steps} steps in {time.monotonic() - started:.0f} s: {outcome}")
    raise typer.Exit(1 if failed else 0)


def _play_in_processes(seeds: range, steps: int, processes: int) -> int:
    """Play lives in processes of this program, each with a share of the seeds; count failed processes."""
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


def _play_lives(seeds: range, steps: int) -> int:
    """Play lives on one engine; count the failed ones."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    warnings.simplefilter("ignore")  # PyIceberg warns when a delete matches no rows
    failed = 0
    with TemporaryDirectory() as home, open_engine(lakes.lake_settings(Path(home))) as engine:
        for seed in seeds:
            started = time.monotonic()
            try:
                list(play(engine, [seed], steps))
            except LifeError as error:
                failed += 1
                print(f"seed {seed}: {error}", flush=True)
                if not isinstance(error.__cause__, UnexpectedStateError):
                    traceback.print_exception(error.__cause__)
            else:
                print(f"seed {seed}: passed {steps} steps, {time.monotonic() - started:.0f} s", flush=True)
    return failed


app = typer.Typer(add_completion=False)
app.command()(simulate)

if __name__ == "__main__":
    app(prog_name="python -m k2_ohlcv_tests.system.simulator")
