"""Contenders side by side: the same cases in turn, round after round, so that noise falls on all alike.

At the end what they made is compared, every column of every candle.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import polars as pl

from bench.contenders import OTHERS, OURS
from bench.job import Measured, candles
from bench.lake import Dataset
from bench.worker import Worker
from k2_ohlcv.domain.candle import KEY, VALUES
from k2_ohlcv.domain.timeframe import Timeframe, timeframe
from k2_ohlcv.domain.window import Interval

#: Told in words what is under way.
Tell = Callable[[str], None]


class UnequalError(Exception):
    """Two contenders gave different candles: no time of them means anything."""


@dataclass(frozen=True)
class Case:
    """Work that is measured.

    Attributes:
        tables: the candle tables to make.
        again: upon what the case before has made.
        contenders: who does it.
    """

    tables: tuple[str, ...]
    again: bool = False
    contenders: tuple[str, ...] = (OURS, *OTHERS)


def race(
    data: Dataset, interval: Interval, cases: Sequence[Case], runs: int, tell: Tell
) -> list[Mapping[str, Measured]]:
    """Measure cases: a first run of each in fresh processes, then warm ones.

    Returns:
        For each case, what each contender took.

    Raises:
        UnequalError: the candles differ.
    """
    out = data.home / "out"
    files = data.files(interval)
    found = [{name: Measured() for name in case.contenders} for case in cases]
    with ExitStack() as stack:
        for turn in range(runs + 1):
            tell(f"run {turn} of {runs}" if turn else "first run, in fresh processes")
            if not turn:
                workers = {name: stack.enter_context(Worker(name)) for name in (OURS, *OTHERS)}
            for case, measured in zip(cases, found, strict=True):
                for name in case.contenders:
                    job = candles(data.home, files, case.tables, interval, out / name)
                    run = workers[name].run(replace(job, again=case.again))
                    measured[name].add(run, first=not turn)
    tell("comparing the candles")
    for name in sorted({name for case in cases for name in case.tables}):
        _verify(data, interval, timeframe(name))
    return list(found)


def _verify(data: Dataset, interval: Interval, table: Timeframe) -> None:
    ours = pl.DataFrame(data.lake.candles(table).scan().to_arrow())
    trades = ours["trade_count"].sum()
    if trades != data.rows * len(list(interval.days())):
        raise UnequalError(f"{table.table} counts {trades} trades, which is not what was generated")
    for name in OTHERS:
        path = candles(data.home, (), (), interval, data.home / "out" / name).path(table)
        compare(ours, pl.read_parquet(path), f"{table.table} by {OURS} and by {name}")


def compare(left: pl.DataFrame, right: pl.DataFrame, what: str) -> None:
    """See that two candle tables are equal in every column but the clocks, types included.

    Raises:
        UnequalError: they are not; the message names columns and shows rows.
    """
    columns = [*KEY, *VALUES]
    left, right = left.select(columns).sort(KEY), right.select(columns).sort(KEY)
    if left.schema != right.schema:
        pairs = zip(left.schema.items(), right.schema.items(), strict=True)
        raise UnequalError(f"{what}: types differ: {[pair for pair in pairs if pair[0] != pair[1]]}")
    if left.equals(right):
        return
    both = left.join(right, on=KEY, how="full", suffix="_right", coalesce=True, nulls_equal=True)
    wrong = {name: both.filter(pl.col(name).ne_missing(pl.col(f"{name}_right"))) for name in VALUES}
    shown = "\n".join(
        f"{name}, {rows.height} rows: {rows.select(*KEY, name, f'{name}_right').head(3)}"
        for name, rows in wrong.items()
        if rows.height
    )
    raise UnequalError(f"{what} differ ({left.height} and {right.height} rows)\n{shown}")
