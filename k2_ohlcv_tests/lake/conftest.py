"""Candle tables that several tests of the lake use."""

import pytest

from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support.daily_candles import put_candles, trades_of_days


@pytest.fixture
def twenty_days(lake: Lake) -> Lake:
    """Twenty days of candles in two snapshots."""
    put_candles(lake, trades_of_days(10))
    put_candles(lake, trades_of_days(20)[30:])
    return lake
