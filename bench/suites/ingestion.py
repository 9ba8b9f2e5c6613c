"""A CSV file in Binance's layout into the trades table; and the same file again, of which all is known."""

import shutil
from dataclasses import replace

from bench.compare import Report
from bench.engines import OWN_ENGINES
from bench.job import Job, Measurement
from bench.lake import Dataset
from bench.report import Goal, Row, median_seconds
from bench.worker import Worker

#: Trades a second.
_GOAL = 300_000
_MOST_RUNS = 3


def measure(data: Dataset, runs: int, tell: Report) -> list[Row]:
    """Two rows: every row new, and every row known. No one else does the same work: looking ids up."""
    job = Job(str(data.home.with_name("ingested")), (str(data.csv),))
    new, known = Measurement(), Measurement()
    with Worker("ingest") as worker:
        for turn in range(min(runs, _MOST_RUNS) + 1):
            tell(f"run {turn}" if turn else "first run, in a fresh process")
            for measured, again in ((new, False), (known, True)):
                measured.add(worker.run(replace(job, again=again)), first=not turn)
    shutil.rmtree(job.home, ignore_errors=True)
    speed = data.rows / median_seconds(new)
    goal = Goal(f"{_GOAL:,} trades/s or more", f"{speed:,.0f}", speed >= _GOAL)
    return [
        Row("ingest a CSV of one day", data.rows, {OWN_ENGINES: new}, [goal]),
        Row("ingest it again, all known", data.rows, {OWN_ENGINES: known}),
    ]
