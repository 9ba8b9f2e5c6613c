"""K2 OHLCV's validation: every check of right candle tables, in one session."""

from pathlib import Path

from bench.engines.session import EngineSession
from bench.job import Job
from bench.lake import open_lake
from k2_ohlcv.engine.totals import TotalsCache
from k2_ohlcv.operations.validate import validate


class ValidationEngine:
    """Validations as in `k2-ohlcv validate`: one table after the other, with shared scans."""

    def __init__(self) -> None:
        self._session = EngineSession()

    def prepare(self, job: Job) -> None:
        """Open the session."""
        self._session.engine(job)

    def run(self, job: Job) -> None:
        """Validate the tables over the job's days.

        Raises:
            ValueError: a check fails, or has not examined every candle.
        """
        engine, lake = self._session.engine(job), open_lake(Path(job.home))
        cache = TotalsCache(job.timeframes)
        for timeframe in job.timeframes:
            rows = lake.candles(timeframe).scan().count()
            for finding in validate(lake, engine, timeframe, [job.interval], cache=cache):
                is_comparison = finding.check == "reconciles_with_trades"
                if not finding.is_ok or (is_comparison and finding.examined != rows):
                    raise ValueError(f"every check should pass and examine every candle: {finding}")


def create_engine() -> ValidationEngine:  # each engine's module has this function
    """Create the validation engine."""
    return ValidationEngine()
