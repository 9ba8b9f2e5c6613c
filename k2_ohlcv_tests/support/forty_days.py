"""Forty days of trades over a month's end, retention of them, and the candles that must remain."""

from datetime import UTC, datetime, timedelta

from k2_ohlcv.domain.candle import Candle, Trade, aggregate
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.retention import RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, read_bound
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.operations.retention_report import RetentionReport, TableReport
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import make_trade

#: The first of forty days, which cross a month's end.
FIRST_DAY = datetime(2024, 1, 20, tzinfo=UTC)
DAYS = 40
END = FIRST_DAY + DAYS * DAY
#: With this setting every snapshot is old enough to expire.
EXPIRE_ALL = {"K2_SNAPSHOT_DAYS": "0"}


def numbered_trade(number: int, at: datetime) -> Trade:
    """A trade whose price follows from its number."""
    return make_trade(number, at, number % 7 + 100, "0.5")


def forty_days_of_trades(interval: timedelta = timedelta(hours=4)) -> list[Trade]:
    """Trades at a fixed interval over forty days."""
    moments = [FIRST_DAY + i * interval for i in range(DAYS * DAY // interval)]
    return [numbered_trade(i, at) for i, at in enumerate(moments)]


FORTY_DAYS = forty_days_of_trades()


def retention_policy(**environ: str) -> RetentionPolicy:
    return Settings.from_environ(environ).retention


def apply_retention(lake: Lake, **environ: str) -> RetentionReport:
    """Run retention of every table with the policy that environment variables set."""
    return retention(lake, retention_policy(**environ), apply=True)


def table_report(report: RetentionReport, name: str) -> TableReport:
    """The report of the table whose name ends so."""
    (report_of_table,) = [t for t in report.tables if t.table.endswith(name)]
    return report_of_table


def _kept_candles(trades: list[Trade], timeframe: Timeframe, expired_before: datetime | None) -> list[Candle]:
    return [
        c for c in aggregate(trades, timeframe) if expired_before is None or c.window_start >= expired_before
    ]


def assert_candles_kept(lake: Lake, trades: list[Trade]) -> None:
    """Compare every table with the candles of these trades from its `expired_before` on."""
    for timeframe in TIMEFRAMES:
        expired_before = read_bound(lake.candles(timeframe), EXPIRED_BEFORE)
        assert lakes.read_candles(lake, timeframe) == _kept_candles(trades, timeframe, expired_before), (
            timeframe.name
        )


def refresh_tables(each_engine: EngineLake) -> None:
    """Refresh every candle table with the cached windows of one run."""
    for timeframe in TIMEFRAMES:
        each_engine.refresh(timeframe, cache=each_engine.run.windows)
