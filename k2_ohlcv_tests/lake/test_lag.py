"""The lag of a candle table behind the trades, from metadata alone."""

from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

HOUR, DAY = find_timeframe("1h"), find_timeframe("1d")


def add(lake: Lake, month: int, day: int) -> Table:
    moment = datetime(2024, month, day, 12, tzinfo=UTC)
    return lakes.add_trades(lake, [make_trade(f"{month}-{day}", moment, 1, 1, market=("X", "Y"))])


def set_watermarks(lake: Lake, snapshot: int | None) -> None:
    assert snapshot is not None
    for timeframe in (HOUR, DAY):
        lakes.set_watermark(lake, timeframe, snapshot)


def dirty_keys(lag: TableLag) -> list[str]:
    return [lag.timeframe.grain.key(partition) for partition in lag.dirty_partitions()]


def commit_time(trades: Table, index: int) -> datetime:
    return datetime.fromtimestamp(trades.metadata.snapshots[index].timestamp_ms / 1000, UTC)


def test_an_empty_lake_is_not_stale(lake: Lake) -> None:
    """Nothing is dirty."""
    lag = TableLag.measure(lake, HOUR)
    assert (lag.is_stale, lag.stale_since, lag.dirty_partitions()) == (False, None, [])


def test_without_a_watermark_every_partition_is_dirty(lake: Lake) -> None:
    """The table is stale since the first trades snapshot."""
    add(lake, 1, 5)
    trades = add(lake, 3, 7)
    lag = TableLag.measure(lake, HOUR)
    assert (lag.is_stale, lag.watermark) == (True, None)
    assert lag.stale_since == commit_time(trades, 0)
    assert dirty_keys(lag) == ["2024-01-05", "2024-03-07"]
    assert dirty_keys(TableLag.measure(lake, DAY)) == ["2024-01-01", "2024-03-01"]


def test_lag_starts_at_the_first_newer_snapshot(lake: Lake) -> None:
    """Partitions that the watermark includes are not dirty."""
    set_watermarks(lake, add(lake, 1, 5).metadata.current_snapshot_id)
    assert not TableLag.measure(lake, HOUR).is_stale
    add(lake, 3, 7)
    trades = add(lake, 2, 1)
    lag = TableLag.measure(lake, HOUR)
    assert lag.stale_since == commit_time(trades, 1)
    assert dirty_keys(lag) == ["2024-02-01", "2024-03-07"], "only trades after the watermark"


def test_a_rollback_makes_the_table_stale(lake: Lake) -> None:
    """The table is stale since the rollback, where both snapshots differ."""
    first = add(lake, 1, 5).metadata.current_snapshot_id
    trades = add(lake, 3, 7)
    set_watermarks(lake, trades.metadata.current_snapshot_id)
    assert first is not None
    trades.manage_snapshots().rollback_to_snapshot(first).commit()
    lag = TableLag.measure(lake, HOUR)
    assert lag.is_stale
    assert lag.stale_since is not None
    assert lag.stale_since >= commit_time(trades, 1)
    assert dirty_keys(lag) == ["2024-03-07"]


def test_an_expired_watermark_makes_every_partition_dirty(lake: Lake) -> None:
    """The two snapshots cannot be compared."""
    add(lake, 1, 5)
    add(lake, 3, 7)
    set_watermarks(lake, 4711)
    assert dirty_keys(TableLag.measure(lake, HOUR)) == ["2024-01-05", "2024-03-07"]
