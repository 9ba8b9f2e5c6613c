"""One refresh after five minutes of new trades, with one day stored and with many: the same, it is hoped.

Beside it the usual way: Spark SQL's MERGE of the day into the 1m table.
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
#: Each run makes up to two commits a table, and a table keeps its last twenty metadata files.
_MOST_RUNS = 5
_MOST_MERGES = 3
_NAMES = tuple(t.name for t in TIMEFRAMES)


@dataclass
class _Measurements:
    """What was measured in one lake, and how many trades were new each time."""

    new: int
    five: Measurement = field(default_factory=Measurement)
    finest: Measurement = field(default_factory=Measurement)
    merge: Measurement | None = None


def measure(data: Dataset, runs: int, tell: Report) -> list[Row]:
    """Three rows: all five tables with a day stored, with many stored, and the 1m table beside MERGE."""
    runs = min(runs, _MOST_RUNS)
    little, much = (Dataset(data.rows, days, data.root / "refresh") for days in (1, data.stored_days))
    with ExitStack() as stack:
        for one in (little, much):
            size = f"{one.rows * one.days:,}"
            tell(f"a lake of {size} trades, made once; of 240 million that takes some six minutes")
            stack.enter_context(prepare_refresh_lake(one))
        found = _measure([little, much], runs, tell)
    few, many = found
    times = median_seconds(many.five) / median_seconds(few.five)
    same = Goal(f"at most {_TIMES} times that with {little.rows:,}", f"{times:.2f} times", times <= _TIMES)
    quick = [
        Goal(
            f"under {_SECONDS:.0f} s",
            f"{median_seconds(one.five):.2f} s",
            median_seconds(one.five) < _SECONDS,
        )
        for one in found
    ]
    work = "refresh {} after five minutes of new trades, {:,} stored"
    beside = {OWN_ENGINES: many.finest} | ({SPARK_MERGE: many.merge} if many.merge else {})
    return [
        Row(work.format("all five tables", little.rows), few.new, {OWN_ENGINES: few.five}, [quick[0]]),
        Row(
            work.format("all five tables", much.rows * much.days),
            many.new,
            {OWN_ENGINES: many.five},
            [same, quick[1]],
        ),
        Row(work.format("the 1m table", much.rows * much.days), many.new, beside),
    ]


def _measure(lakes: list[Dataset], runs: int, tell: Report) -> list[_Measurements]:
    """Rounds over the lakes in turn, so that noise falls on all alike; MERGE in the last lake, after them."""
    jobs = [list(_jobs(lake, 2 * (runs + 1) + _MOST_MERGES + 1)) for lake in lakes]
    found = [_Measurements(new=pq.read_metadata(each[0].files[0]).num_rows) for each in jobs]
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker("refresh")) for _ in lakes]
        for turn in range(runs + 1):
            tell(f"run {turn} of {runs}" if turn else "first run, in fresh processes")
            for worker, each, one in zip(workers, jobs, found, strict=True):
                one.five.add(worker.run(each.pop(0)), first=not turn)
                alone = each.pop(0)
                one.finest.add(worker.run(_only_finest(alone)), first=not turn)
    if shutil.which("java") or os.environ.get("JAVA_HOME"):
        found[-1].merge = Measurement()
        with Worker(SPARK_MERGE) as worker:
            for turn in range(min(runs, _MOST_MERGES) + 1):
                tell(f"MERGE on Apache Spark, run {turn}")
                found[-1].merge.add(worker.run(_only_finest(jobs[-1].pop(0))), first=not turn)
    else:
        tell("MERGE is left out: Apache Spark needs Java, and none is found")
    return found


def _jobs(lake: Dataset, count: int) -> Iterator[Job]:
    """Jobs on the last stored day, each with five minutes of trades to add first."""
    out = lake.home / "out"
    out.mkdir(exist_ok=True)
    last = Interval(lake.all_days.end - DAY, lake.all_days.end)
    for number, rows in enumerate(five_minute_batches(lake, count)):
        path = out / f"new-{number}.parquet"
        pq.write_table(rows, path)
        yield candle_job(lake.home, [str(path)], _NAMES, last, out)


def _only_finest(job: Job) -> Job:
    return Job(job.home, job.files, _NAMES[:1], job.start, job.end)
