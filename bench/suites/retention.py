"""Retention drops 90 day-partitions of a candle table and removes their files."""

from bench.compare import Report
from bench.engines import OWN_ENGINES
from bench.job import Measurement, candle_job
from bench.lake import Dataset
from bench.report import Goal, Row, median_seconds
from bench.worker import Worker

_DAYS, _SECONDS = 90, 10.0
#: The divisor of the number of trades. Far fewer trades give nearly as many candles.
_FEWER_TRADES = 40


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """One row, in a separate lake. The other engines have no retention."""
    dataset = Dataset(data.rows // _FEWER_TRADES, _DAYS + 1, data.root / "retention")
    measured = Measurement()
    show(f"a lake of {_DAYS + 1} days, created once; that takes a minute")
    _ = dataset.lake
    with Worker("retention") as worker:
        for turn in range(runs + 1):
            show(f"run {turn} of {runs}" if turn else "first run, in a new process")
            job = candle_job(dataset.home, (), ("1m",), dataset.all_days, dataset.home / "out")
            measured.add(worker.run(job), first=not turn)
    goal = Goal(
        f"under {_SECONDS:.0f} s", f"{median_seconds(measured):.2f} s", median_seconds(measured) < _SECONDS
    )
    work = f"drop {_DAYS} day-partitions of the 1m table, with their files"
    return [Row(work, dataset.rows * _DAYS, {OWN_ENGINES: measured}, [goal])]
