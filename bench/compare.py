"""Measures engines on the same cases in turns, so that noise affects all of them equally.

At the end every column of every candle is compared.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import polars as pl

from bench.engines import OTHER_ENGINES, OWN_ENGINES
from bench.job import Measurement, candle_job
from bench.lake import Dataset
from bench.worker import Worker
from k2_ohlcv.domain.candle import KEY_COLUMNS, VALUE_COLUMNS
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import Timeframe, find_timeframe

#: Shows a message about the current work.
Report = Callable[[str], None]


class UnequalCandlesError(Exception):
    """Two engines computed different candles, so their times cannot be compared."""


@dataclass(frozen=True)
class Case:
    """Work that is measured.

    Attributes:
        tables: the candle tables to compute.
        again: keep the candles of the case before.
        engines: the names of the engines.
    """

    tables: tuple[str, ...]
    again: bool = False
    engines: tuple[str, ...] = (OWN_ENGINES, *OTHER_ENGINES)


def measure_cases(
    data: Dataset, interval: Interval, cases: Sequence[Case], runs: int, show: Report
) -> list[Mapping[str, Measurement]]:
    """Measure cases: a first run of each in new processes, then warm runs.

    Returns:
        For each case, the measurement of each engine.

    Raises:
        UnequalCandlesError: the candles differ.
    """
    out = data.home / "out"
    files = data.files(interval)
    measurements = [{name: Measurement() for name in case.engines} for case in cases]
    with ExitStack() as stack:
        for turn in range(runs + 1):
            show(f"run {turn} of {runs}" if turn else "first run, in new processes")
            if not turn:
                workers = {name: stack.enter_context(Worker(name)) for name in (OWN_ENGINES, *OTHER_ENGINES)}
            for case, measured in zip(cases, measurements, strict=True):
                for name in case.engines:
                    job = candle_job(data.home, files, case.tables, interval, out / name)
                    run = workers[name].run(replace(job, again=case.again))
                    measured[name].add(run, first=not turn)
    show("comparing the candles")
    for name in sorted({name for case in cases for name in case.tables}):
        _verify_tables(data, interval, find_timeframe(name))
    return list(measurements)


def _verify_tables(data: Dataset, interval: Interval, table: Timeframe) -> None:
    stored = pl.DataFrame(data.lake.candles(table).scan().to_arrow())
    trades = stored["trade_count"].sum()
    if trades != data.rows * len(list(interval.days())):
        raise UnequalCandlesError(f"{table.table} counts {trades} trades, which is not the generated number")
    for name in OTHER_ENGINES:
        path = candle_job(data.home, (), (), interval, data.home / "out" / name).path(table)
        assert_equal_candles(stored, pl.read_parquet(path), f"{table.table} by {OWN_ENGINES} and by {name}")


def assert_equal_candles(left: pl.DataFrame, right: pl.DataFrame, title: str) -> None:
    """Assert that two candle tables are equal in types and in every column except the clocks.

    Raises:
        UnequalCandlesError: the tables differ. The message names columns and shows rows.
    """
    columns = [*KEY_COLUMNS, *VALUE_COLUMNS]
    left, right = left.select(columns).sort(KEY_COLUMNS), right.select(columns).sort(KEY_COLUMNS)
    if left.schema != right.schema:
        pairs = zip(left.schema.items(), right.schema.items(), strict=True)
        raise UnequalCandlesError(f"{title}: types differ: {[pair for pair in pairs if pair[0] != pair[1]]}")
    if left.equals(right):
        return
    both = left.join(right, on=KEY_COLUMNS, how="full", suffix="_right", coalesce=True, nulls_equal=True)
    unequal = {name: both.filter(pl.col(name).ne_missing(pl.col(f"{name}_right"))) for name in VALUE_COLUMNS}
    shown = "\n".join(
        f"{name}, {rows.height} rows: {rows.select(*KEY_COLUMNS, name, f'{name}_right').head(3)}"
        for name, rows in unequal.items()
        if rows.height
    )
    raise UnequalCandlesError(f"{title} differ ({left.height} and {right.height} rows)\n{shown}")
