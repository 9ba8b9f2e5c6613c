"""K2 OHLCV's rebuild, from Iceberg trades to committed candles, in one session."""

from pathlib import Path

from bench.engines.session import EngineSession
from bench.job import Job
from bench.lake import empty_candles, open_lake
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.operations.reconcile import rebuild


class RebuildEngine:
    """Rebuilds, as in a Dagster run of the tables."""

    def __init__(self) -> None:
        self._session = EngineSession()

    def prepare(self, job: Job) -> None:
        """Open the session, and create empty candle tables."""
        self._session.engine(job)
        for timeframe in [] if job.again else job.timeframes:
            empty_candles(open_lake(Path(job.home)), timeframe)

    def run(self, job: Job) -> None:
        """Rebuild the tables one after the other. Several tables may share a scan."""
        engine, lake = self._session.engine(job), open_lake(Path(job.home))
        cache = WindowCache(job.timeframes)
        for timeframe in job.timeframes:
            rebuild(lake, engine, timeframe, [job.interval], cache=cache)


def create_engine() -> RebuildEngine:  # each engine's module has this function
    """Create the rebuild engine."""
    return RebuildEngine()
