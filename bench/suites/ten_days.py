"""The 1m candles of ten days in one rebuild: time, and whether memory stays bounded."""

from bench.contenders import OURS
from bench.lake import Dataset
from bench.race import Case, Tell, race
from bench.report import GB, Goal, Row

#: A run takes seconds, so that few of them say enough.
_MOST_RUNS = 3


def measure(data: Dataset, runs: int, tell: Tell) -> list[Row]:
    """One row."""
    (found,) = race(data, data.all_days, [Case(("1m",))], min(runs, _MOST_RUNS), tell)
    peak = found[OURS].peak
    goal = Goal("peak memory under 2 GB", f"{peak / GB:.2f} GB", peak < 2 * GB)
    return [Row(f"1m of {data.days} days", data.rows * data.days, found, [goal])]
