"""Candle tables of a week of trades: brought up to date, partly dropped, damaged."""

from collections.abc import Callable
from datetime import datetime

import polars as pl

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY, Interval, day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe, find_timeframe
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY, TableCommit, commit_change
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.watermark import carry_over_summary
from k2_ohlcv.operations.reports import ReconcileReport
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, week_of_trades

MINUTE, HOUR, DAILY = (find_timeframe(name) for name in ("1m", "1h", "1d"))
#: The first of the week's days is behind it.
WEEK_LINE = day_start((AT + DAY).date())


def day_interval(moment: datetime) -> Interval:
    return Grain.DAY.partition(moment)


def refresh_all(each_engine: EngineLake) -> list[ReconcileReport]:
    return [each_engine.refresh(each) for each in TIMEFRAMES]


def start_week(each_engine: EngineLake) -> list[Trade]:
    """A lake with a week of trades, one append a day, all tables up to date."""
    some = week_of_trades()
    for first in range(0, len(some), 48):
        lakes.add_trades(each_engine.lake, some[first : first + 48])
    refresh_all(each_engine)
    return some


def drop_trades(each_engine: EngineLake) -> None:
    """Drop the first day of trades, as retention does."""
    table = each_engine.lake.trades()
    files = live_files(table, table_history.current_snapshot_id(table))
    gone = tuple(f.file for f in files if f.span.end <= WEEK_LINE)
    assert gone
    stamp = WEEK_LINE.isoformat()
    commit_change(
        table,
        TableCommit(
            removed_files=gone, properties={FROZEN_BEFORE: stamp}, summary={RETENTION_SUMMARY_KEY: stamp}
        ),
    )


def drop_candles(each_engine: EngineLake, each: Timeframe) -> None:
    table = each_engine.lake.candles(each)
    files = live_files(table, table_history.current_snapshot_id(table))
    gone = tuple(f.file for f in files if f.span.end <= WEEK_LINE)
    commit_change(
        table,
        TableCommit(
            removed_files=gone,
            properties={EXPIRED_BEFORE: WEEK_LINE.isoformat()},
            summary=carry_over_summary(table),
        ),
    )


def daily_trades(each_engine: EngineLake) -> list[Trade]:
    """A week, appended so that each file lies in one day."""
    some = start_week(each_engine)
    table = each_engine.lake.trades()
    table.overwrite(lakes.to_trades_rows(table, some))
    refresh_all(each_engine)
    return some


def damage(
    each_engine: EngineLake, change: Callable[[pl.DataFrame], pl.DataFrame], each: Timeframe = MINUTE
) -> None:
    """Rewrite the first day's (or month's) file, straight through PyIceberg."""
    table = each_engine.lake.candles(each)
    first = min(table.scan().plan_files(), key=lambda t: t.file.file_path)
    table_history.rewrite_files(table, [first], change)


def first_rows(count: int, **values: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Other values in the first rows of a file."""
    chosen = pl.int_range(pl.len()) < count

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(
            pl.when(chosen).then(value).otherwise(pl.col(name)).cast(rows.schema[name]).alias(name)
            for name, value in values.items()
        )

    return change
