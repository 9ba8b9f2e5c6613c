"""Days of candles that are committed directly, without an engine."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE
from k2_ohlcv.lake.maintenance.partition_drops import PartitionsToDrop, drop_partitions
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.trades import make_trade

FIRST = datetime(2024, 2, 20, tzinfo=UTC)
BOUND = FIRST + 10 * DAY
#: Later than any snapshot that a test makes.
FAR_FUTURE = datetime(2100, 1, 1, tzinfo=UTC)


def trades_of_days(days: int, per_day: int = 3) -> list[Trade]:
    """Some trades on each day, an hour apart."""
    return [
        make_trade(f"{day}-{i}", FIRST + day * DAY + timedelta(hours=i), 1 + i, 1, market=("X", "Y"))
        for day in range(days)
        for i in range(per_day)
    ]


def put_candles(lake: Lake, trades: list[Trade]) -> Table:
    """Commit the candles of these trades, as a refresh would."""
    return lakes.commit_candles(lake.writable_candles(MINUTE), MINUTE, trades, datetime.now(UTC))


def load_candles(lake: Lake) -> Callable[[], Table]:
    return lambda: lake.candles(MINUTE)


def find_drops(table: Table) -> PartitionsToDrop:
    return PartitionsToDrop.find(table, BOUND)


def drop_days(lake: Lake) -> PartitionsToDrop:
    """Drop the partitions before the bound, as retention does."""
    return drop_partitions(load_candles(lake), find_drops, EXPIRED_BEFORE)


def when_orphans_are_old() -> datetime:
    """A time at which files of this test are old enough to be removed as orphans."""
    return datetime.now(UTC) + ORPHAN_AGE + timedelta(minutes=1)


def list_files(lake: Lake) -> set[str]:
    """Every file in the location of the 1m table."""
    return set(lakes.files_of(lake.candles(MINUTE)))


def assert_candles(lake: Lake, trades: list[Trade] | None = None) -> None:
    """Compare the candles from the bound on with the trades, and read every snapshot."""
    wanted = [c for c in aggregate(trades or trades_of_days(20), MINUTE) if c.window_start >= BOUND]
    assert lakes.read_candles(lake, MINUTE) == wanted
    table = lake.candles(MINUTE)
    for snapshot in table.snapshots():
        table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()
