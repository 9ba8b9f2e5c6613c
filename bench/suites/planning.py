"""Planning a refresh over a table of 100,000 data files, after new trades and after late ones. Opt-in."""

from datetime import timedelta

from bench.compare import Report
from bench.engines import OWN_ENGINES
from bench.job import Measurement, candle_job
from bench.lake import Dataset
from bench.many_files import NEW_TRADES, count_files, day_of, many_files_lake
from bench.report import Goal, Row, median_seconds
from bench.worker import Worker
from k2_ohlcv.domain.intervals import Interval

_SECONDS = 2.0
_MARKETS, _DAYS = 2_000, 50
#: The trades a day of the full benchmark. The quick benchmark has fewer, and then this lake is small too.
_FULL_ROWS = 2_400_000


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """Two rows, for the 1m table alone. Each run is in a new process, as each refresh is."""
    markets, days = (_MARKETS, _DAYS) if data.rows >= _FULL_ROWS else (20, 5)
    show(f"a table of {markets * days:,} data files, made once; that takes minutes")
    home = many_files_lake(data.root, markets, days)
    rows = []
    for name, day in (("new", days + 1), ("late", days // 2)):
        measured = Measurement()
        for turn in range(runs + 1):
            show(f"{name} trades, run {turn} of {runs}")
            start = day_of(day).start + turn * timedelta(minutes=5)
            job = candle_job(home, (), ("1m",), Interval(start, start + timedelta(minutes=5)), home / "out")
            with Worker("planning") as worker:
                run = worker.run(job)
            # Every run is a first run. The very first one also warms the operating system's cache.
            measured.add(run, first=not turn)
        seconds = median_seconds(measured)
        goal = Goal(f"under {_SECONDS:.0f} s", f"{seconds:.2f} s", seconds < _SECONDS)
        work = f"plan a refresh of 1m after {name} trades, {count_files(home):,} files stored"
        rows.append(Row(work, NEW_TRADES, {OWN_ENGINES: measured}, [goal]))
    return rows
