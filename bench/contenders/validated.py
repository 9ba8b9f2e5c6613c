"""K2 OHLCV's validation: every check of candle tables that are stored and right, in one session."""

from contextlib import ExitStack
from pathlib import Path

from bench.job import Job
from bench.lake import open_lake, settings_of
from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv.validate import validate


class Validated:
    """Validations, as the command line's: the tables one after the other, sharing what they read."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._engine: Engine | None = None

    def prepare(self, job: Job) -> None:
        """Open the session, and keep nothing that an earlier run has read."""
        if self._engine is None:
            self._engine = self._stack.enter_context(open_engine(settings_of(Path(job.home))))
        self._engine.totals = {}

    def run(self, job: Job) -> None:
        """Validate the tables over the job's days.

        Raises:
            ValueError: a check fails, or has not looked at every candle.
        """
        assert self._engine is not None
        lake = open_lake(Path(job.home))
        self._engine.share = frozenset(job.tables)
        for timeframe in job.timeframes:
            rows = lake.candles(timeframe).scan().count()
            for found in validate(lake, self._engine, timeframe, [job.interval]):
                compared = found.check == "reconciles_with_trades"
                if not found.ok or (compared and found.examined != rows):
                    raise ValueError(f"sound tables were expected, and all of them examined: {found}")


def open() -> Validated:  # noqa: A001 # what every contender's module calls it
    """Our validation."""
    return Validated()
