"""A limited retention run on real tables: what it holds back, what it lets go, and what tables remember."""

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
#: The wall clock at the first run, long after the data.
NIGHT = datetime(2025, 6, 1, 2, 40, tzinfo=UTC)
DAYS = 40


def kept(days: int) -> RetentionPolicy:
    return Settings.from_environ({"K2_RETENTION_1M": f"{days}d"}).retention


def night(lake: Lake, days: int, after: timedelta = timedelta(0), *, limited: bool = True) -> TableReport:
    """A retention run of the 1m table, so long after the first one."""
    now = NIGHT + after
    report = retention(lake, kept(days), apply=True, limited=limited, timeframes=[MINUTE], now=now)
    return report.tables[0]


def add(lake: Lake, *some: Trade) -> None:
    """Trades, and their candles."""
    lakes.add_trades(lake, some)
    put_candles(lake, list(some))


def one(at: datetime, market: str = "X") -> Trade:
    return make_trade(at.isoformat(), at, 1, 1, market=(market, "Y"))


@pytest.fixture
def filled(lake: Lake) -> Lake:
    """Forty days of history, of which a first night dropped nothing and remembers the clocks."""
    lake.writable_trades()
    add(lake, *trades_of_days(DAYS))
    assert night(lake, 90).partitions == ()
    return lake


def test_a_run_that_drops_nothing_is_remembered_too(filled: Lake) -> None:
    clocks = read_clocks(filled.candles(MINUTE))
    assert clocks is not None
    assert (clocks.data, clocks.wall) == (FIRST + (DAYS - 1) * DAY + timedelta(hours=2), NIGHT)


def test_steady_nights_drop_what_is_past(filled: Lake) -> None:
    for after in range(1, 4):
        add(filled, one(FIRST + (DAYS + after) * DAY))
        assert len(night(filled, DAYS - 2, after * DAY).partitions) == (3 if after == 1 else 1)


def test_a_changed_setting_is_not_held(filled: Lake) -> None:
    gone = night(filled, 10, DAY)
    assert (len(gone.partitions), gone.held_back) == (29, None)


def test_a_daemon_that_was_off_is_not_held(filled: Lake) -> None:
    """Both clocks moved by a hundred days."""
    add(filled, one(FIRST + (DAYS + 100) * DAY))
    gone = night(filled, 110, 100 * DAY)
    assert (len(gone.partitions), gone.held_back) == (30, None)


def test_a_stray_trade_is_held_until_it_is_gone_or_taken_knowingly(filled: Lake) -> None:
    before = lakes.read_candles(filled, MINUTE)
    lakes.add_trades(filled, [one(NIGHT, "STRAY")])
    for after in (1, 2, 30):
        held = night(filled, 90, after * DAY)
        assert held.partitions == ()
        assert held.held_back is not None
        assert len(held.held_back.partitions) == DAYS
        assert (held.held_back.rows, held.rows) == (3 * DAYS, 0)
        assert f"trade {NIGHT.isoformat()} of STRAY Y at 2025-06-01 02:40:00 UTC" in held.held_back.reason
    assert lakes.read_candles(filled, MINUTE) == before
    assert len(night(filled, 90, 31 * DAY, limited=False).partitions) == DAYS
    clocks = read_clocks(filled.candles(MINUTE))
    assert clocks is not None
    assert clocks.data == NIGHT


def test_a_stray_trade_that_drops_nothing_tonight_is_not_believed_tomorrow(filled: Lake) -> None:
    """Nothing is past its time until the setting changes; the jump counts still."""
    lakes.add_trades(filled, [one(NIGHT)])
    assert night(filled, 2000, DAY).held_back is None
    assert night(filled, 90, 2 * DAY).held_back is not None


def test_a_table_without_memory_is_at_its_first_run(filled: Lake) -> None:
    """Also where the properties were taken away, or say nothing that can be read."""
    for values in (
        {DATA_CLOCK: "soon", WALL_CLOCK: "now"},
        {DATA_CLOCK: "2024-01-01", WALL_CLOCK: "2024-01-01"},
    ):
        table_history.set_properties(filled.candles(MINUTE), values)
        assert night(filled, 10, DAY).held_back is not None
    assert night(filled, DAYS - 1 - 7, DAY).held_back is None


def test_a_moment_that_was_asked_for_is_not_remembered(filled: Lake) -> None:
    before = read_clocks(filled.candles(MINUTE))
    retention(filled, kept(30), apply=True, as_of=NIGHT, timeframes=[MINUTE], now=NIGHT + DAY)
    assert lakes.read_candles(filled, MINUTE) == []
    assert read_clocks(filled.candles(MINUTE)) == before


def test_the_dry_run_names_the_trade_and_what_a_scheduled_run_would_hold(filled: Lake) -> None:
    lakes.add_trades(filled, [one(NIGHT, "STRAY")])
    report = retention(filled, kept(90), now=NIGHT + DAY)
    said = report.as_json()
    assert said["newest_trade"] == {
        "exchange": "STRAY",
        "symbol": "Y",
        "trade_id": NIGHT.isoformat(),
        "timestamp": NIGHT.isoformat(),
    }
    assert said["aged_from"] == NIGHT.isoformat()
    minute = next(table for table in report.tables if table.table == MINUTE.table)
    assert len(minute.partitions) == DAYS
    assert minute.held_back is not None
    told = minute.as_json()["held"]
    assert isinstance(told, dict)
    assert (told["partitions"], told["first"], told["rows"]) == (DAYS, "2024-02-20", 3 * DAYS)
