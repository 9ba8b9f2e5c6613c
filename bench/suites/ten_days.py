"""A rebuild of the 1m candles of ten days: its time, and whether its memory is bounded."""

from bench.compare import Case, Report, measure_cases
from bench.engines import OWN_ENGINES
from bench.lake import Dataset
from bench.report import GB, Goal, Row

#: A run takes seconds, so a few runs are precise enough.
_MAX_RUNS = 3


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """One row."""
    (measured,) = measure_cases(data, data.all_days, [Case(("1m",))], min(runs, _MAX_RUNS), show)
    peak = measured[OWN_ENGINES].peak
    goal = Goal("peak memory under 2 GB", f"{peak / GB:.2f} GB", peak < 2 * GB)
    return [Row(f"1m of {data.days} days", data.rows * data.days, measured, [goal])]
