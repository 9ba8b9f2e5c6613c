"""Ingestion of a CSV file in Binance's layout, and of the same file again, when all rows are duplicates."""

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
_MAX_RUNS = 3


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """Two rows: all trades new, and all trades duplicates. The other engines do not look up ids."""
    job = Job(str(data.home.with_name("ingested")), (str(data.csv),))
    new, known = Measurement(), Measurement()
    with Worker("ingest") as worker:
        for turn in range(min(runs, _MAX_RUNS) + 1):
            show(f"run {turn}" if turn else "first run, in a new process")
            for measured, again in ((new, False), (known, True)):
                measured.add(worker.run(replace(job, again=again)), first=not turn)
    shutil.rmtree(job.home, ignore_errors=True)
    speed = data.rows / median_seconds(new)
    goal = Goal(f"{_GOAL:,} trades/s or more", f"{speed:,.0f}", speed >= _GOAL)
    return [
        Row("ingest a CSV of one day", data.rows, {OWN_ENGINES: new}, [goal]),
        Row("ingest the CSV again, all duplicates", data.rows, {OWN_ENGINES: known}),
    ]
