"""The first refresh of ten years of three quiet markets: 3,652 partitions with few trades each."""

from bench.compare import Report
from bench.engines import OWN_ENGINES
from bench.job import Job, Measurement
from bench.lake import Dataset
from bench.prepared_lakes import years_lake
from bench.report import GB, Goal, Row, median_seconds
from bench.worker import Worker

_SECONDS, _MEMORY = 30.0, 1 * GB
_MAX_RUNS = 2
#: The trades a day of the full benchmark. The quick benchmark has fewer, and then this lake is small too.
_FULL_ROWS = 2_400_000


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """One row. The other engines make no partitions."""
    is_full = data.rows >= _FULL_ROWS
    rows, days = (900_000, 3_652) if is_full else (9_000, 37)
    show(f"a lake of {days:,} days, created once")
    measured = Measurement()
    job = Job(str(years_lake(data.root, rows, days)))
    with Worker("first refresh") as worker:
        for turn in range(min(runs, _MAX_RUNS) + 1):
            show(f"run {turn}" if turn else "first run, in a new process")
            measured.add(worker.run(job), first=not turn)
    seconds = median_seconds(measured)
    goals = [
        Goal(f"at most {_SECONDS:.0f} s", f"{seconds:.1f} s", seconds <= _SECONDS),
        Goal(f"under {_MEMORY / GB:.0f} GB", f"{measured.peak / GB:.2f} GB", measured.peak < _MEMORY),
    ]
    work = f"first refresh of all five tables of three markets over {days:,} days"
    return [Row(work, rows, {OWN_ENGINES: measured}, goals)]
