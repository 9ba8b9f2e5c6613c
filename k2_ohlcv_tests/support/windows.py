"""Candles that an engine computes from a trades table, without a commit to a candle table."""

from collections.abc import Iterable, Sequence

from pyiceberg.table import Table

from k2_ohlcv.domain.candle import KEY_COLUMNS, Candle, Trade
from k2_ohlcv.domain.intervals import Interval, coalesce
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.engine.rollup import compute_windows
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.frames.candles import candles_from_windows
from k2_ohlcv_tests.support.table_history import current_snapshot_id


def compute_candles(
    engine: Engine,
    trades: Table,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    cache: WindowCache | None = None,
) -> list[Candle]:
    """The candles of these intervals at the table's current snapshot, by key."""
    windows = compute_windows(engine, trades, current_snapshot_id(trades), timeframe, intervals, cache=cache)
    candles, _ = candles_from_windows(windows, timeframe)
    return [Candle(**row) for row in candles.sort(*KEY_COLUMNS).to_dicts()]


def list_trade_days(trades: Iterable[Trade]) -> list[Interval]:
    """The days of these trades, as disjoint intervals."""
    return coalesce(Grain.DAY.partition(trade.timestamp) for trade in trades)
