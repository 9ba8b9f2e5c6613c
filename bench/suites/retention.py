"""Retention of a candle table: 90 of its day-partitions go, and the disk gets their space back."""

from bench.compare import Report
from bench.engines import OWN_ENGINES
from bench.job import Measurement, candle_job
from bench.lake import Dataset
from bench.report import Goal, Row, median_seconds
from bench.worker import Worker

_DAYS, _SECONDS = 90, 10.0
#: What goes are candles: so much fewer trades make nearly as many.
_FEWER = 40


def measure(data: Dataset, runs: int, tell: Report) -> list[Row]:
    """One row, on a lake of its own. No one else does the same work."""
    long = Dataset(data.rows // _FEWER, _DAYS + 1, data.root / "retention")
    measured = Measurement()
    tell(f"a lake of {_DAYS + 1} days, made once; that takes a minute")
    _ = long.lake
    with Worker("retention") as worker:
        for turn in range(runs + 1):
            tell(f"run {turn} of {runs}" if turn else "first run, in a fresh process")
            job = candle_job(long.home, (), ("1m",), long.all_days, long.home / "out")
            measured.add(worker.run(job), first=not turn)
    goal = Goal(
        f"under {_SECONDS:.0f} s", f"{median_seconds(measured):.2f} s", median_seconds(measured) < _SECONDS
    )
    work = f"drop {_DAYS} day-partitions of the 1m table, with their files"
    return [Row(work, long.rows * _DAYS, {OWN_ENGINES: measured}, [goal])]
