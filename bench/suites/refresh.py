"""A refresh after five minutes of new trades, with one day stored and with many days stored.

Its time should not depend on the stored days. Spark SQL's MERGE of the day into the 1m table is compared.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from bench.compare import Report
from bench.engines import OWN_ENGINES, SPARK_MERGE
from bench.job import Job, Measurement, candle_job
from bench.lake import Dataset
from bench.prepared_lakes import five_minute_batches, prepare_refresh_lake
from bench.report import Goal, Row, median_seconds
from bench.worker import Worker
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES

_TIMES, _SECONDS = 1.2, 3.0
#: Each run commits up to twice to a table, and a table keeps its last twenty metadata files.
_MAX_RUNS = 5
_MAX_MERGES = 3
_NAMES = tuple(t.name for t in TIMEFRAMES)


@dataclass
class _Measurements:
    """The measurements in one lake, and the number of new trades in each run."""

    new: int
    five: Measurement = field(default_factory=Measurement)
    finest: Measurement = field(default_factory=Measurement)
    merge: Measurement | None = None


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """Three rows: all tables in the small lake, all tables in the large lake, and the 1m table with MERGE."""
    runs = min(runs, _MAX_RUNS)
    small, large = (Dataset(data.rows, days, data.root / "refresh") for days in (1, data.stored_days))
    with ExitStack() as stack:
        for dataset in (small, large):
            size = f"{dataset.rows * dataset.days:,}"
            show(f"a lake of {size} trades, created once; 240 million trades take some six minutes")
            stack.enter_context(prepare_refresh_lake(dataset))
        measured = _measure([small, large], runs, show)
    in_small, in_large = measured
    times = median_seconds(in_large.five) / median_seconds(in_small.five)
    constant = Goal(f"at most {_TIMES} times that with {small.rows:,}", f"{times:.2f} times", times <= _TIMES)
    fast = [
        Goal(
            f"under {_SECONDS:.0f} s",
            f"{median_seconds(m.five):.2f} s",
            median_seconds(m.five) < _SECONDS,
        )
        for m in measured
    ]
    work = "refresh {} after five minutes of new trades, {:,} stored"
    compared = {OWN_ENGINES: in_large.finest} | ({SPARK_MERGE: in_large.merge} if in_large.merge else {})
    return [
        Row(
            work.format("all five tables", small.rows), in_small.new, {OWN_ENGINES: in_small.five}, [fast[0]]
        ),
        Row(
            work.format("all five tables", large.rows * large.days),
            in_large.new,
            {OWN_ENGINES: in_large.five},
            [constant, fast[1]],
        ),
        Row(work.format("the 1m table", large.rows * large.days), in_large.new, compared),
    ]


def _measure(lakes: list[Dataset], runs: int, show: Report) -> list[_Measurements]:
    """Measure both lakes in turns, so that noise affects both equally; then MERGE in the last lake."""
    jobs = [list(_jobs(lake, 2 * (runs + 1) + _MAX_MERGES + 1)) for lake in lakes]
    measured = [_Measurements(new=pq.read_metadata(queue[0].files[0]).num_rows) for queue in jobs]
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker("refresh")) for _ in lakes]
        for turn in range(runs + 1):
            show(f"run {turn} of {runs}" if turn else "first run, in new processes")
            for worker, queue, measurements in zip(workers, jobs, measured, strict=True):
                measurements.five.add(worker.run(queue.pop(0)), first=not turn)
                job = queue.pop(0)
                measurements.finest.add(worker.run(_only_finest(job)), first=not turn)
    if shutil.which("java") or os.environ.get("JAVA_HOME"):
        measured[-1].merge = Measurement()
        with Worker(SPARK_MERGE) as worker:
            for turn in range(min(runs, _MAX_MERGES) + 1):
                show(f"MERGE on Apache Spark, run {turn}")
                measured[-1].merge.add(worker.run(_only_finest(jobs[-1].pop(0))), first=not turn)
    else:
        show("MERGE is left out: Apache Spark needs Java, which is not installed")
    return measured


def _jobs(lake: Dataset, count: int) -> Iterator[Job]:
    """Jobs on the last stored day. Each one first appends five minutes of trades."""
    out = lake.home / "out"
    out.mkdir(exist_ok=True)
    last = Interval(lake.all_days.end - DAY, lake.all_days.end)
    for number, rows in enumerate(five_minute_batches(lake, count)):
        path = out / f"new-{number}.parquet"
        pq.write_table(rows, path)
        yield candle_job(lake.home, [str(path)], _NAMES, last, out)


def _only_finest(job: Job) -> Job:
    return Job(job.home, job.files, _NAMES[:1], job.start, job.end)
