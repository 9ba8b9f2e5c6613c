"""Limited retention runs on real tables: what they hold back, drop and remember."""

from datetime import UTC, datetime, timedelta

import pytest

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.retention import RetentionPolicy
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance.retention_clocks import DATA_CLOCK, WALL_CLOCK, read_clocks
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.operations.retention_report import TableReport
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.daily_candles import FIRST, put_candles, trades_of_days
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
#: The wall clock at the first run, long after the newest trade.
NIGHT = datetime(2025, 6, 1, 2, 40, tzinfo=UTC)
DAYS = 40


def retain(days: int) -> RetentionPolicy:
    """A policy that retains the 1m table for some days."""
    return Settings.from_environ({"K2_RETENTION_1M": f"{days}d"}).retention


def run_retention(
    lake: Lake, days: int, after: timedelta = timedelta(0), *, limited: bool = True
) -> TableReport:
    """A retention run of the 1m table, some time after the first run."""
    now = NIGHT + after
    report = retention(lake, retain(days), apply=True, limited=limited, timeframes=[MINUTE], now=now)
    return report.tables[0]


def add(lake: Lake, *trades: Trade) -> None:
    lakes.add_trades(lake, trades)
    put_candles(lake, list(trades))


def trade_at(at: datetime, market: str = "X") -> Trade:
    return make_trade(at.isoformat(), at, 1, 1, market=(market, "Y"))


@pytest.fixture
def filled(lake: Lake) -> Lake:
    """Forty days of history. A first run dropped nothing and stored both clocks."""
    lake.writable_trades()
    add(lake, *trades_of_days(DAYS))
    assert run_retention(lake, 90).partitions == ()
    return lake


def test_a_run_that_drops_nothing_stores_its_clocks(filled: Lake) -> None:
    """The table has the newest trade's time and the wall clock."""
    clocks = read_clocks(filled.candles(MINUTE))
    assert (clocks.data, clocks.wall) == (FIRST + (DAYS - 1) * DAY + timedelta(hours=2), NIGHT)


def test_steady_runs_drop_past_partitions(filled: Lake) -> None:
    """A new day of trades makes one more day past retention."""
    for after in range(1, 4):
        add(filled, trade_at(FIRST + (DAYS + after) * DAY))
        assert len(run_retention(filled, DAYS - 2, after * DAY).partitions) == (3 if after == 1 else 1)


def test_a_changed_setting_is_not_limited(filled: Lake) -> None:
    """A shorter retention drops many days in one run."""
    report = run_retention(filled, 10, DAY)
    assert (len(report.partitions), report.held_back) == (29, None)


def test_a_long_pause_is_not_limited(filled: Lake) -> None:
    """Both clocks advanced by a hundred days."""
    add(filled, trade_at(FIRST + (DAYS + 100) * DAY))
    report = run_retention(filled, 110, 100 * DAY)
    assert (len(report.partitions), report.held_back) == (30, None)


def test_a_stray_trade_holds_partitions_back(filled: Lake) -> None:
    """The partitions stay until a run without the limit drops them."""
    before = lakes.read_candles(filled, MINUTE)
    lakes.add_trades(filled, [trade_at(NIGHT, "STRAY")])
    for after in (1, 2, 30):
        report = run_retention(filled, 90, after * DAY)
        assert report.partitions == ()
        assert len(report.held_back.partitions) == DAYS
        assert (report.held_back.rows, report.rows) == (3 * DAYS, 0)
        assert f"trade {NIGHT.isoformat()} of STRAY Y at 2025-06-01 02:40:00 UTC" in report.held_back.reason
    assert lakes.read_candles(filled, MINUTE) == before
    assert len(run_retention(filled, 90, 31 * DAY, limited=False).partitions) == DAYS
    clocks = read_clocks(filled.candles(MINUTE))
    assert clocks.data == NIGHT


def test_a_stray_trade_is_remembered_between_runs(filled: Lake) -> None:
    """No partition is past retention until the setting changes. The jump still counts then."""
    lakes.add_trades(filled, [trade_at(NIGHT)])
    assert run_retention(filled, 2000, DAY).held_back is None
    assert run_retention(filled, 90, 2 * DAY).held_back is not None


def test_a_table_without_clocks_is_at_its_first_run(filled: Lake) -> None:
    """Unreadable clock properties count as missing."""
    for values in (
        {DATA_CLOCK: "soon", WALL_CLOCK: "now"},
        {DATA_CLOCK: "2024-01-01", WALL_CLOCK: "2024-01-01"},
    ):
        table_history.set_properties(filled.candles(MINUTE), values)
        assert run_retention(filled, 10, DAY).held_back is not None
    assert run_retention(filled, DAYS - 1 - 7, DAY).held_back is None


def test_a_given_date_is_not_stored(filled: Lake) -> None:
    """A run with `as_of` leaves the stored clocks unchanged."""
    before = read_clocks(filled.candles(MINUTE))
    retention(filled, retain(30), apply=True, as_of=NIGHT, timeframes=[MINUTE], now=NIGHT + DAY)
    assert lakes.read_candles(filled, MINUTE) == []
    assert read_clocks(filled.candles(MINUTE)) == before


def test_a_dry_run_reports_the_newest_trade_and_held_partitions(filled: Lake) -> None:
    """The report names the trade, and what a scheduled run would hold back."""
    lakes.add_trades(filled, [trade_at(NIGHT, "STRAY")])
    report = retention(filled, retain(90), now=NIGHT + DAY)
    output = report.as_json()
    assert output["newest_trade"] == {
        "exchange": "STRAY",
        "symbol": "Y",
        "trade_id": NIGHT.isoformat(),
        "timestamp": NIGHT.isoformat(),
    }
    assert output["aged_from"] == NIGHT.isoformat()
    minute = next(table for table in report.tables if table.table == MINUTE.table)
    assert len(minute.partitions) == DAYS
    assert minute.held_back is not None
    held = minute.as_json()["held"]
    assert isinstance(held, dict)
    assert (held["partitions"], held["first"], held["rows"]) == (DAYS, "2024-02-20", 3 * DAYS)
