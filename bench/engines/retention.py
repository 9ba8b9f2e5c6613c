"""K2 OHLCV's retention: drops whole partitions of a candle table, with their files."""

from datetime import timedelta
from pathlib import Path

from bench.engines.session import EngineSession
from bench.job import Job
from bench.lake import empty_candles, open_lake
from k2_ohlcv.domain.retention import RetentionPolicy
from k2_ohlcv.operations.reconcile import rebuild
from k2_ohlcv.operations.retention import retention

#: Only the day of the newest trade and the current snapshot are kept.
_NOTHING = timedelta(0)


class RetentionEngine:
    """Retention of the job's tables, as `k2-ohlcv retention --apply` does."""

    def __init__(self) -> None:
        self._session = EngineSession()

    def prepare(self, job: Job) -> None:
        """Create the tables again, with all their partitions."""
        engine, lake = self._session.engine(job), open_lake(Path(job.home))
        for timeframe in job.timeframes:
            empty_candles(lake, timeframe)
            rebuild(lake, engine, timeframe, [job.interval])

    def run(self, job: Job) -> None:
        """Drop all partitions but the last, with their files.

        Raises:
            ValueError: another number of partitions was dropped, or their files still exist.
        """
        policy = RetentionPolicy(candles=dict.fromkeys(job.tables, _NOTHING), trades=None, snapshots=_NOTHING)
        report = retention(open_lake(Path(job.home)), policy, apply=True, timeframes=job.timeframes)
        days = len(list(job.interval.days()))
        for table in report.tables:
            if len(table.partitions) != days - 1 or table.files_removed < len(table.partitions):
                raise ValueError(f"{days - 1} partitions should have been dropped, with their files: {table}")


def create_engine() -> RetentionEngine:  # each engine's module has this function
    """Create the retention engine."""
    return RetentionEngine()
