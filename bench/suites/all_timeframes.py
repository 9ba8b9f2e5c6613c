"""All five candle tables of one day, compared with its 1m table alone."""

from bench.compare import Case, Report, measure_cases
from bench.engines import OWN_ENGINES
from bench.lake import Dataset
from bench.report import Goal, Row, median_seconds
from k2_ohlcv.domain.timeframe import TIMEFRAMES


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """One row. Its goal compares with the 1m table, which is measured in the same rounds."""
    names = tuple(t.name for t in TIMEFRAMES)
    all_five, alone = measure_cases(data, data.first_day, [Case(names), Case(names[:1])], runs, show)
    times = median_seconds(all_five[OWN_ENGINES]) / median_seconds(alone[OWN_ENGINES])
    goal = Goal("under 3 times the 1m alone", f"{times:.2f} times", times < 3)
    return [Row("all five tables of one day", data.rows, all_five, [goal])]
