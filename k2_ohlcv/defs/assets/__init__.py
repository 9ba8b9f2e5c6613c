"""The assets: the trades table, and one candle table a timeframe. Each factory has its own module."""

import dagster as dg

from k2_ohlcv.defs.assets.candles import candles_asset
from k2_ohlcv.defs.assets.trades import trades_asset
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.settings import Settings


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Every table of the graph. The settings say where partitions begin, and how stale tables may be."""
    return [trades_asset(settings), *(candles_asset(timeframe, settings) for timeframe in TIMEFRAMES)]
