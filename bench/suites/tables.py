"""All five candle tables of one day, beside its 1m table alone."""

from bench.contenders import OURS
from bench.lake import Dataset
from bench.race import Case, Tell, race
from bench.report import Goal, Row, median
from k2_ohlcv.domain.timeframe import TIMEFRAMES


def measure(data: Dataset, runs: int, tell: Tell) -> list[Row]:
    """One row, its goal against the 1m alone, measured in the same rounds."""
    names = tuple(t.name for t in TIMEFRAMES)
    all_five, alone = race(data, data.first_day, [Case(names), Case(names[:1])], runs, tell)
    times = median(all_five[OURS]) / median(alone[OURS])
    goal = Goal("under 3 times the 1m alone", f"{times:.2f} times", times < 3)
    return [Row("all five tables of one day", data.rows, all_five, [goal])]
