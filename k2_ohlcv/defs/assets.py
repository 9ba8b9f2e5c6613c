"""The assets: the trades table, and one candle table a timeframe. Their factories are beside this."""

from datetime import date

import dagster as dg

from k2_ohlcv.defs.candles import candles_asset
from k2_ohlcv.defs.patience import Patience
from k2_ohlcv.defs.trades import trades_asset
from k2_ohlcv.domain.timeframe import TIMEFRAMES


def build(start: date | None, patience: Patience) -> list[dg.AssetsDefinition]:
    """Every table of the graph. `start` is `Settings.start_date`."""
    return [trades_asset(start), *(candles_asset(one, start, patience) for one in TIMEFRAMES)]
