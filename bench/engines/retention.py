"""K2 OHLCV's retention: whole partitions of a candle table go, with the files that only they were in."""

from datetime import timedelta
from pathlib import Path

from bench.engines.session import EngineSession
from bench.job import Job
from bench.lake import empty_candles, open_lake
from k2_ohlcv.domain.retention import RetentionPolicy
from k2_ohlcv.operations.reconcile import rebuild
from k2_ohlcv.operations.retention import retention

#: All but the day of the newest trade are past their time, and all but the current snapshot.
_NOTHING = timedelta(0)


class RetentionEngine:
    """Retention of the job's tables, as the command line's with `--apply`."""

    def __init__(self) -> None:
        self._session = EngineSession()

    def prepare(self, job: Job) -> None:
        """Make the tables anew, with all their partitions."""
        engine, lake = self._session.engine(job), open_lake(Path(job.home))
        for timeframe in job.timeframes:
            empty_candles(lake, timeframe)
            rebuild(lake, engine, timeframe, [job.interval])

    def run(self, job: Job) -> None:
        """Let go of all partitions but the last, and of their files.

        Raises:
            ValueError: another number of partitions went, or files of them are still there.
        """
        kept = RetentionPolicy(candles=dict.fromkeys(job.tables, _NOTHING), trades=None, snapshots=_NOTHING)
        report = retention(open_lake(Path(job.home)), kept, apply=True, timeframes=job.timeframes)
        days = len(list(job.interval.days()))
        for one in report.tables:
            if len(one.partitions) != days - 1 or one.files_removed < len(one.partitions):
                raise ValueError(f"{days - 1} partitions were to go, with their files: {one}")


def create_engine() -> RetentionEngine:  # what every contender's module calls it
    """Our retention."""
    return RetentionEngine()
