"""The data files of a candle table: cut by time, and rewritten one for one."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake import candle_layout
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.files import LiveFile, live_files
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 29, 12, tzinfo=UTC)
NOW = datetime(2024, 3, 1, tzinfo=UTC)


def trades(first: int, minutes: int, markets: int = 2) -> list[Trade]:
    """A trade of each market in some minutes after noon."""
    return [
        make_trade(f"{minute}", AT + timedelta(minutes=minute), market=("X", f"M{market}"))
        for minute in range(first, first + minutes)
        for market in range(markets)
    ]


def commit(lake: Lake, given_trades: list[Trade]) -> list[LiveFile]:
    """Commit the candles of trades. Returns the files by time."""
    lakes.commit_candles(lake.writable_candles(MINUTE), MINUTE, given_trades, NOW)
    table = lake.candles(MINUTE)
    return sorted(live_files(table, table.metadata.current_snapshot_id), key=lambda f: f.span)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of eight rows. A file with fewer than two rows is small."""
    monkeypatch.setattr(candle_layout, "FILE_ROWS", 8)
    monkeypatch.setattr(candle_layout, "SMALL_FILE_ROWS", 2)


def test_many_candles_are_cut_by_time(lake: Lake) -> None:
    """The spans of the files do not overlap, and no file is much larger than the others."""
    files = commit(lake, trades(0, 21))
    assert [f.file.record_count for f in files] == [8, 8, 8, 8, 10]
    assert all(earlier.span.end <= later.span.start for earlier, later in pairwise(files))
    assert lakes.read_candles(lake, MINUTE) == aggregate(trades(0, 21), MINUTE)


def test_markets_of_one_window_share_a_file(lake: Lake) -> None:
    """A window is not cut, however many markets it has."""
    assert [f.file.record_count for f in commit(lake, trades(0, 2, markets=30))] == [30, 30]


def test_a_late_trade_rewrites_one_file(lake: Lake) -> None:
    """All other files stay, and the rewritten one keeps its span."""
    before = commit(lake, trades(0, 20))
    changed = [
        make_trade("90", AT + timedelta(minutes=9), 5, 1, market=("X", "M1")),
        *trades(9, 1, markets=1),
    ]
    after = commit(lake, changed)
    kept = {f.path for f in before} & {f.path for f in after}
    assert len(before) == len(after) == len(kept) + 1
    assert [f.span for f in before] == [f.span for f in after]
    others = [t for t in trades(0, 20) if t.timestamp != changed[0].timestamp]
    assert lakes.read_candles(lake, MINUTE) == aggregate([*others, *changed], MINUTE)


def test_new_trades_leave_earlier_files_alone(lake: Lake) -> None:
    """Five more minutes are a new file."""
    before, after = commit(lake, trades(0, 20)), commit(lake, trades(20, 5))
    assert {f.path for f in before} < {f.path for f in after}
    assert len(after) == len(before) + 1


def test_small_files_are_joined_and_large_ones_stay(lake: Lake) -> None:
    """The commit that would add one small file too many joins the small files."""
    large = {f.path for f in commit(lake, trades(0, 20))}
    minutes = range(30, 30 + candle_layout.MAX_FILES + 3)
    most = max(len(commit(lake, trades(minute, 1, markets=1))) for minute in minutes)
    files = commit(lake, trades(60, 1, markets=1))
    assert most == len(large) + candle_layout.MAX_FILES
    assert large < {f.path for f in files}
    assert len(files) <= len(large) + 8
    added = [t for minute in [*minutes, 60] for t in trades(minute, 1, markets=1)]
    assert lakes.read_candles(lake, MINUTE) == aggregate([*trades(0, 20), *added], MINUTE)
