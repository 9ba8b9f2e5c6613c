"""K2 OHLCV's refresh of candle tables after new trades, in one session."""

from pathlib import Path

import pyarrow.parquet as pq

from bench.engines.session import EngineSession
from bench.job import Job
from bench.lake import append_trades, open_lake
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.totals import TotalsCache
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv.operations.validate import validate


class RefreshEngine:
    """Refreshes of tables, as in the runs that their sensor requests."""

    def __init__(self) -> None:
        self._session = EngineSession()

    def prepare(self, job: Job) -> None:
        """Bring all tables up to date, then add the job's new trades."""
        lake = open_lake(Path(job.home))
        for timeframe in TIMEFRAMES if self._session.is_open else ():
            refresh(lake, self._session.engine(job), timeframe)
        self._session.engine(job)
        for file in job.files:
            append_trades(lake, pq.read_table(file))

    def run(self, job: Job) -> None:
        """Refresh the tables one after the other, and run their checks if the job asks for them."""
        engine, lake = self._session.engine(job), open_lake(Path(job.home))
        windows, totals = WindowCache(job.timeframes), TotalsCache(job.timeframes)
        for timeframe in job.timeframes:
            report = refresh(lake, engine, timeframe, cache=windows)
            if report.plan.reason or not report.counts.added + report.counts.changed:
                raise ValueError(f"the refresh should have changed only new windows: {report}")
            if job.check:
                done = report.reconciled_windows
                for finding in validate(
                    lake, engine, timeframe, done.intervals, reconciled=done, cache=totals
                ):
                    if not finding.is_ok and finding.check != "freshness":
                        raise ValueError(f"every check should pass: {finding}")


def create_engine() -> RefreshEngine:  # each engine's module has this function
    """Create the refresh engine."""
    return RefreshEngine()
