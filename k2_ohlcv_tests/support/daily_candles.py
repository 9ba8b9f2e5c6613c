"""Days of candles that are committed directly, without an engine."""

from datetime import UTC, datetime, timedelta

from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.trades import make_trade

FIRST = datetime(2024, 2, 20, tzinfo=UTC)
LINE = FIRST + 10 * DAY


def trades_of_days(days: int, each: int = 3) -> list[Trade]:
    return [
        make_trade(f"{day}-{i}", FIRST + day * DAY + timedelta(hours=i), 1 + i, 1, market=("X", "Y"))
        for day in range(days)
        for i in range(each)
    ]


def put_candles(lake: Lake, some: list[Trade]) -> Table:
    """Commit the candles of these trades, as a refresh would."""
    return lakes.commit_candles(lake.writable_candles(MINUTE), MINUTE, some, datetime.now(UTC))
