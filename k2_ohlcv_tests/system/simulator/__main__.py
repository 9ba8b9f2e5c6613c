"""The command line: `python -m k2_ohlcv_tests.system.simulator --seed 7 --steps 200`."""

import logging
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import structlog
import typer

from k2_ohlcv.engine.session import open_engine
from k2_ohlcv_tests import lakes
from k2_ohlcv_tests.system.simulator.life import NOT_YET, LifeError, play
from k2_ohlcv_tests.system.simulator.world import WrongError


def simulate(
    seed: Annotated[int, typer.Option(help="The first life's seed; the next ones' count on from it.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a life.")] = 200,
    lives: Annotated[int, typer.Option(min=1, help="Lives, one after another.")] = 1,
    everything: Annotated[
        bool, typer.Option(help="Take the steps too that the code does not withstand yet.")
    ] = False,
) -> None:
    """Play lives of a lake; ends with exit code 1 where something goes wrong, and prints how."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    started, wrong = time.monotonic(), 0
    with TemporaryDirectory() as home, open_engine(lakes.settings(Path(home))) as engine:
        for one in range(seed, seed + lives):
            try:
                for life in play(engine, [one], steps, frozenset() if everything else NOT_YET):
                    print(f"seed {life.seed}: {steps} steps are right, {time.monotonic() - started:.0f} s")
            except LifeError as error:
                wrong += 1
                print(f"seed {one}: {error}")
                if not isinstance(error.__cause__, WrongError):
                    traceback.print_exception(error.__cause__)
    raise typer.Exit(1 if wrong else 0)


app = typer.Typer(add_completion=False)
app.command()(simulate)

if __name__ == "__main__":
    app(prog_name="python -m k2_ohlcv_tests.system.simulator")
