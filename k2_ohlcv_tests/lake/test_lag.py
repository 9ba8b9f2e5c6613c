"""How far behind a candle table is, from metadata alone."""

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


def mark(lake: Lake, snapshot: int | None) -> None:
    assert snapshot is not None
    for one in (HOUR, DAY):
        lakes.set_watermark(lake, one, snapshot)


def keys(found: TableLag) -> list[str]:
    return [found.timeframe.grain.key(partition) for partition in found.dirty_partitions()]


def committed(trades: Table, index: int) -> datetime:
    return datetime.fromtimestamp(trades.metadata.snapshots[index].timestamp_ms / 1000, UTC)


def test_an_empty_lake_is_not_behind(lake: Lake) -> None:
    found = TableLag.measure(lake, HOUR)
    assert (found.is_stale, found.stale_since, found.dirty_partitions()) == (False, None, [])


def test_without_a_watermark_everything_is_behind_since_the_first_snapshot(lake: Lake) -> None:
    add(lake, 1, 5)
    trades = add(lake, 3, 7)
    found = TableLag.measure(lake, HOUR)
    assert (found.is_stale, found.watermark) == (True, None)
    assert found.stale_since == committed(trades, 0)
    assert keys(found) == ["2024-01-05", "2024-03-07"]
    assert keys(TableLag.measure(lake, DAY)) == ["2024-01-01", "2024-03-01"]


def test_behind_counts_from_the_first_snapshot_that_is_not_reached(lake: Lake) -> None:
    mark(lake, add(lake, 1, 5).metadata.current_snapshot_id)
    assert not TableLag.measure(lake, HOUR).is_stale
    add(lake, 3, 7)
    trades = add(lake, 2, 1)
    found = TableLag.measure(lake, HOUR)
    assert found.stale_since == committed(trades, 1)
    assert keys(found) == ["2024-02-01", "2024-03-07"], "not what the watermark has reached"


def test_a_rollback_leaves_the_table_behind(lake: Lake) -> None:
    """The current snapshot is older than the watermark: behind since the rollback, where the two differ."""
    first = add(lake, 1, 5).metadata.current_snapshot_id
    trades = add(lake, 3, 7)
    mark(lake, trades.metadata.current_snapshot_id)
    assert first is not None
    trades.manage_snapshots().rollback_to_snapshot(first).commit()
    found = TableLag.measure(lake, HOUR)
    assert found.is_stale
    assert found.stale_since is not None
    assert found.stale_since >= committed(trades, 1)
    assert keys(found) == ["2024-03-07"]


def test_a_watermark_that_expired_makes_everything_dirty(lake: Lake) -> None:
    add(lake, 1, 5)
    add(lake, 3, 7)
    mark(lake, 4711)
    assert keys(TableLag.measure(lake, HOUR)) == ["2024-01-05", "2024-03-07"]
