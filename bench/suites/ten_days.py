"""The 1m candles of ten days in one rebuild: time, and whether memory stays bounded."""

from bench.compare import Case, Report, measure_cases
from bench.engines import OWN_ENGINES
from bench.lake import Dataset
from bench.report import GB, Goal, Row

#: A run takes seconds, so that few of them say enough.
_MOST_RUNS = 3


def measure(data: Dataset, runs: int, tell: Report) -> list[Row]:
    """One row."""
    (found,) = measure_cases(data, data.all_days, [Case(("1m",))], min(runs, _MOST_RUNS), tell)
    peak = found[OWN_ENGINES].peak
    goal = Goal("peak memory under 2 GB", f"{peak / GB:.2f} GB", peak < 2 * GB)
    return [Row(f"1m of {data.days} days", data.rows * data.days, found, [goal])]
