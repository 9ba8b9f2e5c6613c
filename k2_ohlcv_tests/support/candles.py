"""Candle tables of a week of trades: brought up to date, partly dropped, damaged."""

from collections.abc import Callable
from datetime import datetime

import polars as pl

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe, timeframe
from k2_ohlcv.domain.window import DAY, Interval, midnight
from k2_ohlcv.lake.commit import DROPS, Change, commit
from k2_ohlcv.lake.files import live_files
from k2_ohlcv.lake.lines import EXPIRED, FROZEN
from k2_ohlcv.lake.watermark import carried
from k2_ohlcv.reconcile import refresh
from k2_ohlcv.report import Report
from k2_ohlcv_tests import histories, lakes
from k2_ohlcv_tests.support.bench import Bench
from k2_ohlcv_tests.support.trades import AT, week

MINUTE, HOUR, DAILY = (timeframe(name) for name in ("1m", "1h", "1d"))
#: The first of the week's days is behind it.
WEEK_LINE = midnight((AT + DAY).date())


def day(moment: datetime) -> Interval:
    return Grain.DAY.partition(moment)


def refresh_all(bench: Bench) -> list[Report]:
    return [refresh(bench.lake, bench.engine, each) for each in TIMEFRAMES]


def start_week(bench: Bench) -> list[Trade]:
    """A lake with a week of trades, one append a day, all tables up to date."""
    some = week()
    for first in range(0, len(some), 48):
        lakes.add_trades(bench.lake, some[first : first + 48])
    refresh_all(bench)
    return some


def drop_trades(bench: Bench) -> None:
    """Drop the first day of trades, as retention does."""
    table = bench.lake.trades()
    files = live_files(table, histories.current(table))
    gone = tuple(f.file for f in files if f.span.end <= WEEK_LINE)
    assert gone
    stamp = WEEK_LINE.isoformat()
    commit(table, Change(removed=gone, properties={FROZEN: stamp}, summary={DROPS: stamp}))


def drop_candles(bench: Bench, each: Timeframe) -> None:
    table = bench.lake.candles(each)
    files = live_files(table, histories.current(table))
    gone = tuple(f.file for f in files if f.span.end <= WEEK_LINE)
    commit(table, Change(removed=gone, properties={EXPIRED: WEEK_LINE.isoformat()}, summary=carried(table)))


def daily_trades(bench: Bench) -> list[Trade]:
    """A week, appended so that each file lies in one day."""
    some = start_week(bench)
    table = bench.lake.trades()
    table.overwrite(lakes.trades_table(table, some))
    refresh_all(bench)
    return some


def damage(bench: Bench, change: Callable[[pl.DataFrame], pl.DataFrame], each: Timeframe = MINUTE) -> None:
    """Rewrite the first day's (or month's) file, straight through PyIceberg."""
    table = bench.lake.candles(each)
    first = min(table.scan().plan_files(), key=lambda t: t.file.file_path)
    histories.rewrite(table, [first], change)


def first_rows(count: int, **values: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Other values in the first rows of a file."""
    chosen = pl.int_range(pl.len()) < count

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(
            pl.when(chosen).then(value).otherwise(pl.col(name)).cast(rows.schema[name]).alias(name)
            for name, value in values.items()
        )

    return change
