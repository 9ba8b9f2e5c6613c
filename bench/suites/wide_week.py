"""Seven days of two thousand markets: a rebuild of all five tables, and all of their checks. Opt-in."""

from bench.compare import Report
from bench.engines import OWN_ENGINES
from bench.job import Measurement, candle_job
from bench.lake import Dataset
from bench.report import GB, Goal, Row, median_seconds
from bench.suites.wide_day import MARKETS, wide_dataset
from bench.worker import Worker
from k2_ohlcv.domain.timeframe import TIMEFRAMES

_DAYS, _SECONDS, _MEMORY = 7, 60.0, 3 * GB
_NAMES = tuple(t.name for t in TIMEFRAMES)


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """Two rows, of one warm run each, as a run takes minutes."""
    week = wide_dataset(data, _DAYS)
    rebuild, validate = Measurement(), Measurement()
    show(f"a lake of {week.rows * _DAYS:,} trades of {MARKETS:,} markets, created once; that takes minutes")
    files = week.files(week.all_days)
    for name, measured in (("K2", rebuild), ("validate", validate)):
        with Worker(name) as worker:
            for turn in range(min(runs, 1) + 1):
                show(f"{name}, run {turn}")
                job = candle_job(week.home, files, _NAMES, week.all_days, week.home / "out")
                measured.add(worker.run(job), first=not turn)
    seconds = median_seconds(validate)
    time_goal = Goal(f"at most {_SECONDS:.0f} s", f"{seconds:.1f} s", seconds <= _SECONDS)
    where = f"of seven days of {MARKETS:,} markets"
    return [
        Row(
            f"rebuild all five tables {where}", week.rows * _DAYS, {OWN_ENGINES: rebuild}, [_memory(rebuild)]
        ),
        Row(
            f"validate all five tables {where}",
            week.rows * _DAYS,
            {OWN_ENGINES: validate},
            [time_goal, _memory(validate)],
        ),
    ]


def _memory(measured: Measurement) -> Goal:
    return Goal(f"under {_MEMORY / GB:.0f} GB", f"{measured.peak / GB:.2f} GB", measured.peak < _MEMORY)
