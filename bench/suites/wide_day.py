"""All five tables of a day of two thousand markets, beside one pass and beside five scans of the others."""

from bench.compare import Case, Report, measure_cases
from bench.engines import OTHER_ENGINES, OWN_ENGINES
from bench.job import Measurement
from bench.lake import Dataset
from bench.report import GB, Goal, Row, time_ratio
from k2_ohlcv.domain.timeframe import TIMEFRAMES

MARKETS = 2_000
#: Trades of the wide day for each trade of the narrow day.
_TIMES_NARROW = 10 / 3
_ONE_PASS, _MEMORY = 1.6, 2.5 * GB
_MAX_RUNS = 3


def wide_dataset(data: Dataset, days: int = 1) -> Dataset:
    """A day of two thousand markets with Zipf volumes: eight million trades beside 2.4 million."""
    return Dataset(round(data.rows * _TIMES_NARROW), days, data.root, markets=MARKETS)


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """Two rows with the same measurements of the project."""
    wide = wide_dataset(data)
    show(f"a lake of {wide.rows:,} trades of {MARKETS:,} markets, created once")
    names = tuple(t.name for t in TIMEFRAMES)
    cases = [Case(names), *(Case((name,), engines=OTHER_ENGINES) for name in names)]
    one_pass, *scans = measure_cases(wide, wide.first_day, cases, min(runs, _MAX_RUNS), show)
    five = {name: _sum([scan[name] for scan in scans]) for name in OTHER_ENGINES}
    own = one_pass[OWN_ENGINES]
    work = f"all five tables of a day of {MARKETS:,} markets"
    goals = [
        _ratio_goal({OWN_ENGINES: own, "DuckDB": one_pass["DuckDB"]}, _ONE_PASS, "DuckDB's one pass"),
        Goal(f"under {_MEMORY / GB} GB", f"{own.peak / GB:.2f} GB", own.peak < _MEMORY),
    ]
    scans_goal = _ratio_goal({OWN_ENGINES: own, "DuckDB": five["DuckDB"]}, 1, "DuckDB's five scans")
    return [
        Row(work, wide.rows, one_pass, goals),
        Row(f"{work}, others in five scans", wide.rows, {OWN_ENGINES: own, **five}, [scans_goal]),
    ]


def _sum(scans: list[Measurement]) -> Measurement:
    """The measurement of several jobs, one after the other."""
    return Measurement(
        [sum(seconds) for seconds in zip(*(scan.seconds for scan in scans), strict=True)],
        [sum(seconds) for seconds in zip(*(scan.cpu for scan in scans), strict=True)],
        max(scan.peak for scan in scans),
    )


def _ratio_goal(measured: dict[str, Measurement], most: float, than: str) -> Goal:
    times = time_ratio(measured)
    assert times is not None
    return Goal(f"at most {most} times {than}", f"{times:.2f} times", times <= most)
