"""K2 OHLCV itself: candles committed to Iceberg by the one operation, in one session."""

from pathlib import Path

from bench.engines.session import EngineSession
from bench.job import Job
from bench.lake import empty_candles, open_lake
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.operations.reconcile import rebuild


class RebuildEngine:
    """Rebuilds, as a Dagster run of those tables would call them."""

    def __init__(self) -> None:
        self._session = EngineSession()

    def prepare(self, job: Job) -> None:
        """Open the session, and leave empty candle tables."""
        self._session.engine(job)
        for timeframe in [] if job.again else job.timeframes:
            empty_candles(open_lake(Path(job.home)), timeframe)

    def run(self, job: Job) -> None:
        """Rebuild the tables one after the other; where they are several, a scan may serve all."""
        engine, lake = self._session.engine(job), open_lake(Path(job.home))
        cache = WindowCache(job.timeframes)
        for timeframe in job.timeframes:
            rebuild(lake, engine, timeframe, [job.interval], cache=cache)


def create_engine() -> RebuildEngine:  # what every contender's module calls it
    """Our engine."""
    return RebuildEngine()
