"""Refreshes in a day of two thousand markets: new trades, late trades all over the day, one late trade."""

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from bench.compare import Report
from bench.engines import OWN_ENGINES
from bench.job import Job, Measurement, candle_job
from bench.lake import Dataset
from bench.prepared_lakes import five_minute_batches, late_trades, prepare_refresh_lake
from bench.report import GB, Goal, Row, median_seconds
from bench.suites.wide_day import MARKETS, wide_dataset
from bench.worker import Worker
from k2_ohlcv.domain.timeframe import TIMEFRAMES

_LATE = 2_000
_MAX_RUNS = 3
_NAMES = tuple(t.name for t in TIMEFRAMES)
#: The seconds that each kind of work may take, and its peak memory.
_NEW, _MANY_LATE, _ONE_LATE, _MEMORY = 3.0, 6.0, 1.0, 2.5 * GB


def measure(data: Dataset, runs: int, show: Report) -> list[Row]:
    """Three rows, from the same lake and process."""
    runs = min(runs, _MAX_RUNS)
    wide = replace(wide_dataset(data), root=data.root / "refresh")
    show(f"a lake of {wide.rows:,} trades of {MARKETS:,} markets with all candles, created once")
    new, many, one = Measurement(), Measurement(), Measurement()
    with prepare_refresh_lake(wide), Worker("refresh") as worker:
        for turn in range(runs + 1):
            show(f"run {turn} of {runs}" if turn else "first run, in a new process")
            for measured, rows in zip((new, many, one), _batches(wide, turn), strict=True):
                job = _job(wide, rows, turn, check=measured is new)
                measured.add(worker.run(job), first=not turn)
    where = f"in a day of {MARKETS:,} markets"
    return [
        _row(
            f"refresh all five tables after five minutes of new trades {where}, with checks",
            wide.rows,
            new,
            _NEW,
        ),
        _row(f"refresh all five tables after {_LATE:,} late trades {where}", wide.rows, many, _MANY_LATE),
        _row(f"refresh all five tables after one late trade {where}", wide.rows, one, _ONE_LATE),
    ]


def _batches(wide: Dataset, turn: int) -> Iterator[pa.Table]:
    *_, new = five_minute_batches(wide, turn + 1)
    yield new
    yield late_trades(wide, _LATE, 2 * turn)
    yield late_trades(wide, 1, 2 * turn + 1)


def _job(wide: Dataset, rows: pa.Table, turn: int, *, check: bool) -> Job:
    out = wide.home / "out"
    out.mkdir(exist_ok=True)
    path = out / f"new-{turn}-{rows.num_rows}.parquet"
    pq.write_table(rows, path)
    return replace(candle_job(wide.home, [str(path)], _NAMES, wide.first_day, out), check=check)


def _row(work: str, trades: int, measured: Measurement, most: float) -> Row:
    seconds = median_seconds(measured)
    goals = [
        Goal(f"at most {most:.0f} s", f"{seconds:.2f} s", seconds <= most),
        Goal(f"under {_MEMORY / GB} GB", f"{measured.peak / GB:.2f} GB", measured.peak < _MEMORY),
    ]
    return Row(work, trades, {OWN_ENGINES: measured}, goals)
