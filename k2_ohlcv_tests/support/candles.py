"""Candle tables of three days of trades: refreshed, partly dropped or damaged."""

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY, Interval, day_start
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe, find_timeframe
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY, TableCommit, commit_change
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.lake.watermark import carry_over_summary
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv.operations.reports import ReconcileReport
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, week_of_trades

MINUTE, HOUR, DAILY = (find_timeframe(name) for name in ("1m", "1h", "1d"))
#: The first of the three days is before this bound.
WEEK_BOUND = day_start((AT + DAY).date())


def day_interval(moment: datetime) -> Interval:
    return Grain.DAY.partition(moment)


def refresh_all(each_engine: EngineLake) -> list[ReconcileReport]:
    return [each_engine.refresh(timeframe) for timeframe in TIMEFRAMES]


def start_week(each_engine: EngineLake) -> list[Trade]:
    """Append three days of trades, one commit a day, and refresh every table."""
    trades = week_of_trades()
    for first in range(0, len(trades), 48):
        lakes.add_trades(each_engine.lake, trades[first : first + 48])
    refresh_all(each_engine)
    return trades


def start_minutes(each_engine: EngineLake) -> list[Trade]:
    """Append three days of trades and rebuild the 1m table."""
    trades = week_of_trades()
    lakes.add_trades(each_engine.lake, trades)
    each_engine.rebuild(MINUTE)
    return trades


def drop_trades(each_engine: EngineLake) -> None:
    """Drop the first day of trades, as retention does."""
    table = each_engine.lake.trades()
    files = live_files(table, table_history.current_snapshot_id(table))
    removed = tuple(f.file for f in files if f.span.end <= WEEK_BOUND)
    assert removed
    bound = WEEK_BOUND.isoformat()
    commit_change(
        table,
        TableCommit(
            removed_files=removed, properties={FROZEN_BEFORE: bound}, summary={RETENTION_SUMMARY_KEY: bound}
        ),
    )


def drop_candles(each_engine: EngineLake, timeframe: Timeframe) -> None:
    """Drop the first day of candles, as retention does."""
    table = each_engine.lake.candles(timeframe)
    files = live_files(table, table_history.current_snapshot_id(table))
    removed = tuple(f.file for f in files if f.span.end <= WEEK_BOUND)
    commit_change(
        table,
        TableCommit(
            removed_files=removed,
            properties={EXPIRED_BEFORE: WEEK_BOUND.isoformat()},
            summary=carry_over_summary(table),
        ),
    )


def daily_trades(each_engine: EngineLake) -> list[Trade]:
    """Store three days of trades in one file a day, and refresh every table."""
    trades = start_week(each_engine)
    table = each_engine.lake.trades()
    table.overwrite(lakes.to_trades_rows(table, trades))
    refresh_all(each_engine)
    return trades


def damage(
    each_engine: EngineLake, change: Callable[[pl.DataFrame], pl.DataFrame], timeframe: Timeframe = MINUTE
) -> None:
    """Rewrite the file of the first day or month through PyIceberg."""
    table = each_engine.lake.candles(timeframe)
    first = min(table.scan().plan_files(), key=lambda t: t.file.file_path)
    table_history.rewrite_files(table, [first], change)


def first_rows(count: int, **values: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """A change that sets other values in the first rows of a file."""
    chosen = pl.int_range(pl.len()) < count

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(
            pl.when(chosen).then(value).otherwise(pl.col(name)).cast(rows.schema[name]).alias(name)
            for name, value in values.items()
        )

    return change


def trade_windows(trades: list[Trade], timeframe: Timeframe) -> list[Interval]:
    """The windows that contain these trades."""
    return timeframe.align(Interval(t.timestamp, t.timestamp + timedelta(microseconds=1)) for t in trades)


def minute_candles(each_engine: EngineLake) -> Table:
    return each_engine.lake.candles(MINUTE)


def assert_refreshed(each_engine: EngineLake, trades: list[Trade]) -> None:
    """A refresh makes 1m and 1d equal to these trades, and a second refresh has no work."""
    for timeframe in (MINUTE, DAILY):
        each_engine.refresh(timeframe)
        assert preview_refresh(each_engine.lake, timeframe).is_current
        assert not TableLag.measure(each_engine.lake, timeframe).is_stale
    each_engine.assert_equal_to_trades(trades, MINUTE, DAILY)
