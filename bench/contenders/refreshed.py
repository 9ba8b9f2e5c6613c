"""K2 OHLCV's refresh: new trades are in, and candle tables are brought up to date in one session."""

from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq

from bench.job import Job
from bench.lake import append_trades, open_lake, settings_of
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv.refresh import refresh


class Refreshed:
    """Refreshes, each table for itself, as the runs that its sensor asks for."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._engine: Engine | None = None

    def prepare(self, job: Job) -> None:
        """Bring all tables up to date, then add the job's new trades."""
        lake = open_lake(Path(job.home))
        if self._engine is None:
            self._engine = self._stack.enter_context(open_engine(settings_of(Path(job.home))))
        else:
            for timeframe in TIMEFRAMES:
                refresh(lake, self._engine, timeframe)
        for file in job.files:
            append_trades(lake, pq.read_table(file))

    def run(self, job: Job) -> None:
        """Refresh the tables one after the other."""
        assert self._engine is not None
        lake = open_lake(Path(job.home))
        for timeframe in job.timeframes:
            report = refresh(lake, self._engine, timeframe)
            if report.plan.reason or not report.added + report.changed:
                raise ValueError(f"a refresh of what is new was expected: {report}")


def open() -> Refreshed:  # noqa: A001 # what every contender's module calls it
    """Our refresh."""
    return Refreshed()
