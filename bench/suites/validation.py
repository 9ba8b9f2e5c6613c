"""Every check of all five tables over seven days. All trades are scanned, and every candle is compared."""

from bench.compare import Report
from bench.engines import OWN_ENGINES
from bench.job import Measurement, candle_job
from bench.lake import Dataset
from bench.prepared_lakes import prepare_refresh_lake
from bench.report import Goal, Row, median_seconds
from bench.trades import MARKETS
from bench.worker import Worker
from k2_ohlcv.domain.timeframe import TIMEFRAMES

_DAYS, _SECONDS = 7, 15.0
_NAMES = tuple(t.name for t in TIMEFRAMES)


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """Two rows: the trades a day in all markets together, and the same number in each market."""
    markets = len(MARKETS)
    return [
        _measure(Dataset(data.rows, _DAYS, data.root / "validate"), runs, show, f"over {markets} markets"),
        _measure(
            Dataset(data.rows * markets, _DAYS, data.root / "validate"),
            runs,
            show,
            f"over {markets} markets, {data.rows:,} each",
        ),
    ]


def _measure(week: Dataset, runs: int, show: Report, where: str) -> Row:
    """One row, in a separate lake that is up to date. The other engines have no validation."""
    measured = Measurement()
    show(f"a lake of {week.rows * week.days:,} trades with all candles, created once; that takes minutes")
    with prepare_refresh_lake(week), Worker("validate") as worker:
        for turn in range(runs + 1):
            show(f"{where}, run {turn} of {runs}" if turn else f"{where}, first run, in a new process")
            job = candle_job(week.home, (), _NAMES, week.all_days, week.home / "out")
            measured.add(worker.run(job), first=not turn)
    goal = Goal(
        f"under {_SECONDS:.0f} s", f"{median_seconds(measured):.2f} s", median_seconds(measured) < _SECONDS
    )
    work = f"validate all five tables of {_DAYS} days, {week.rows:,} trades a day {where}"
    return Row(work, week.rows * week.days, {OWN_ENGINES: measured}, [goal])
