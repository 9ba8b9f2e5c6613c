"""K2 OHLCV's planning of refreshes after an append, in a table of many data files. Nothing is computed."""

from pathlib import Path

from bench.job import Job
from bench.lake import append_trades, open_lake
from bench.many_files import new_trades, set_watermarks
from k2_ohlcv.operations.planning import plan_refresh


class PlanningEngine:
    """Plans, as each refresh makes one. A new process has read no manifest."""

    def prepare(self, job: Job) -> None:
        """Have all tables count as up to date, then add the job's new trades."""
        lake = open_lake(Path(job.home))
        set_watermarks(lake)
        append_trades(lake, new_trades(job.interval.start))

    def run(self, job: Job) -> None:
        """Plan a refresh of each table.

        Raises:
            ValueError: a plan has other changes than the one new file.
        """
        lake = open_lake(Path(job.home))
        for timeframe in job.timeframes:
            plan = plan_refresh(lake.candles(timeframe), lake.trades(), timeframe)
            if plan.reason or plan.files_changed != 1 or not plan.intervals:
                raise ValueError(f"one file should have changed: {plan}")


def create_engine() -> PlanningEngine:  # each engine's module has this function
    """Create the planning engine."""
    return PlanningEngine()
