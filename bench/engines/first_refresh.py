"""K2 OHLCV's first refresh: all candles of a lake that has none."""

from pathlib import Path

from bench.engines.session import EngineSession
from bench.job import Job
from bench.lake import empty_candles, open_lake
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.operations.reconcile import refresh


class FirstRefreshEngine:
    """First refreshes of all tables, in one session."""

    def __init__(self) -> None:
        self._session = EngineSession()

    def prepare(self, job: Job) -> None:
        """Open the session, and create empty candle tables."""
        self._session.engine(job)
        for timeframe in TIMEFRAMES:
            empty_candles(open_lake(Path(job.home)), timeframe)

    def run(self, job: Job) -> None:
        """Refresh the tables one after the other, with shared scans."""
        engine, lake, cache = self._session.engine(job), open_lake(Path(job.home)), WindowCache(TIMEFRAMES)
        for timeframe in TIMEFRAMES:
            if not refresh(lake, engine, timeframe, cache=cache).watermark_moved:
                raise ValueError(f"the first refresh should have computed all of {timeframe.table}")


def create_engine() -> FirstRefreshEngine:  # each engine's module has this function
    """Create the engine."""
    return FirstRefreshEngine()
