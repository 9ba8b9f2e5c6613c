"""The 1m candles of one day: from no candles, and again when nothing has changed."""

from bench.contenders import OURS
from bench.lake import Dataset
from bench.race import Case, Tell, race
from bench.report import Row, no_slower


def measure(data: Dataset, runs: int, tell: Tell) -> list[Row]:
    """Two rows: the rebuild, and the rebuild once more."""
    cases = [Case(("1m",)), Case(("1m",), again=True, contenders=(OURS,))]
    first, again = race(data, data.first_day, cases, runs, tell)
    return [
        Row("1m of one day", data.rows, first, [no_slower(first)]),
        Row("1m of that day again, nothing changed", data.rows, again),
    ]
