"""K2 OHLCV's validation: every check of candle tables that are stored and right, in one session."""

from pathlib import Path

from bench.engines.session import EngineSession
from bench.job import Job
from bench.lake import open_lake
from k2_ohlcv.engine.totals import TotalsCache
from k2_ohlcv.operations.validate import validate


class ValidationEngine:
    """Validations, as the command line's: the tables one after the other, sharing what they read."""

    def __init__(self) -> None:
        self._session = EngineSession()

    def prepare(self, job: Job) -> None:
        """Open the session."""
        self._session.engine(job)

    def run(self, job: Job) -> None:
        """Validate the tables over the job's days.

        Raises:
            ValueError: a check fails, or has not looked at every candle.
        """
        engine, lake = self._session.engine(job), open_lake(Path(job.home))
        cache = TotalsCache(job.timeframes)
        for timeframe in job.timeframes:
            rows = lake.candles(timeframe).scan().count()
            for found in validate(lake, engine, timeframe, [job.interval], cache=cache):
                compared = found.check == "reconciles_with_trades"
                if not found.is_ok or (compared and found.examined != rows):
                    raise ValueError(f"sound tables were expected, and all of them examined: {found}")


def create_engine() -> ValidationEngine:  # what every contender's module calls it
    """Our validation."""
    return ValidationEngine()
