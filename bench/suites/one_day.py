"""A rebuild of the 1m candles of one day, and a second rebuild without changes."""

from bench.compare import Case, Report, measure_cases
from bench.engines import OWN_ENGINES
from bench.lake import Dataset
from bench.report import Row, speed_goal


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """Two rows: the first rebuild and the second one."""
    cases = [Case(("1m",)), Case(("1m",), again=True, engines=(OWN_ENGINES,))]
    first, again = measure_cases(data, data.first_day, cases, runs, show)
    return [
        Row("1m of one day", data.rows, first, [speed_goal(first)]),
        Row("1m of that day again, nothing changed", data.rows, again),
    ]
