"""Rules that once could be broken without a test noticing: one plain example each, seen from outside."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform
from pyiceberg.typedef import Record
from pyiceberg.types import DecimalType, IcebergType, StringType, TimestamptzType

from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.intervals import DAY, Interval, is_covered
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.history_bounds import newest_trade_time
from k2_ohlcv.lake.metadata.snapshot_diff import diff_snapshots
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.candles import day_interval
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
COLUMNS: dict[str, IcebergType] = {
    "exchange": StringType(),
    "symbol": StringType(),
    "trade_id": StringType(),
    "timestamp": TimestamptzType(),
    "price": DecimalType(18, 8),
    "quantity": DecimalType(19, 8),
}


def trade(name: str, at: datetime, price: str = "100") -> Trade:
    return make_trade(name, at, price, 1, market=("X", "Y"))


def of_two_days() -> list[Trade]:
    """Three trades a day, each of a window of its own."""
    return [trade(f"{d}{m}", AT + d * DAY + timedelta(minutes=m)) for d in range(2) for m in range(3)]


@pytest.fixture
def filled(sail: EngineLake) -> EngineLake:
    """Two days of our own trades, a file each, and their 1m candles."""
    lakes.add_trades(sail.lake, of_two_days())
    sail.refresh(MINUTE)
    return sail


def file_of(table: Table, moment: datetime) -> tuple[str, Record]:
    """The only file of a day, and its partition."""
    (task,) = [
        t
        for t in table.scan().plan_files()
        if t.file.partition[0] == Grain.DAY.ordinal(day_interval(moment).start)
    ]
    return task.file.file_path, task.file.partition


def delete_first(table: Table, moment: datetime) -> None:
    """Delete the first row of a day's file, in a delete file that names the day and not the file."""
    path, partition = file_of(table, moment)
    external_tables.delete_positions(table, [(path, 0)], partition=partition)


def test_a_delete_file_that_names_no_file_dirties_its_partition(filled: EngineLake) -> None:
    """Its metadata says only the partition; the candle of the deleted trade goes, and no other."""
    delete_first(filled.lake.trades(), AT + DAY)
    filled.refresh(MINUTE)
    assert lakes.read_candles(filled.lake, MINUTE) == aggregate(
        [t for t in of_two_days() if t.trade_id != "10"], MINUTE
    )


@pytest.mark.parametrize("since", ["unpartitioned", "partitioned"])
def test_deletes_without_a_partition_reach_every_partition(lake: Lake, since: str) -> None:
    """Equality deletes of an unpartitioned spec bear on all files, be that spec an old or the current one."""
    table = external_tables.create_table(lake, COLUMNS)
    with table.update_spec() as spec:
        spec.add_field("timestamp", DayTransform(), "day")
    external_tables.add_rows(table, [vars(t) for t in of_two_days()])
    if since == "partitioned":
        with table.update_spec() as spec:
            spec.remove_field("day")
    before = table_history.current_snapshot_id(table)
    bare = next(spec for spec in table.specs().values() if not spec.fields)
    external_tables.delete_equal(table, ["trade_id"], [("11",)], partition=Record(), spec=bare)
    trades = Lake(lake.catalog, ExternalTradesConfig(table.name())).trades()
    found = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    window = MINUTE.window(AT + DAY + timedelta(minutes=1))
    assert found.reason is not None or is_covered(found.bounds, [window])


class _Applying(table_history._Compaction):
    """A compaction that applies row-level deletes on the way, and drops their files."""

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        data = [m for m in manifests if m.content == ManifestContent.DATA]
        return super()._process_manifests(data)


def test_a_compaction_that_applies_deletes_moves_no_rows_only(filled: EngineLake) -> None:
    """Rows that were deleted, then left out by a compaction, are gone since the watermark before both."""
    delete_first(filled.lake.trades(), AT + DAY)
    table = filled.lake.trades()
    tasks = [t for t in table.scan().plan_files() if t.delete_files]
    table_history._replace(table, tasks, lambda rows: rows, _Applying)
    left = [t for t in of_two_days() if t.trade_id != "10"]
    assert sorted(t.trade_id for t in lakes.all_trades(filled.lake)) == sorted(t.trade_id for t in left)
    assert not any(t.delete_files for t in filled.lake.trades().scan().plan_files())
    filled.refresh(MINUTE)
    assert lakes.read_candles(filled.lake, MINUTE) == aggregate(left, MINUTE)


def test_a_moved_file_is_kept_only_if_all_that_it_became_is(filled: EngineLake) -> None:
    """Two days are compacted in one snapshot, then one of the results goes: its candles go with it."""
    table = filled.lake.trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    table = filled.lake.trades()
    table.delete(f"timestamp >= '{day_interval(AT + DAY).start.isoformat()}'")
    filled.refresh(MINUTE)
    assert lakes.read_candles(filled.lake, MINUTE) == aggregate(of_two_days()[:3], MINUTE)


def test_a_row_in_the_file_of_another_partition_is_found_by_that_file(filled: EngineLake) -> None:
    """A rebuild of the partition that the file claims removes it, although the row's time lies elsewhere."""
    table_history.add_to_wrong_day(filled.lake.candles(MINUTE), day_interval(AT + DAY).start)
    assert len(lakes.read_frame(filled.lake, MINUTE)) == len(of_two_days()) + 1
    filled.rebuild(MINUTE, [day_interval(AT + DAY)])
    assert lakes.read_candles(filled.lake, MINUTE) == aggregate(of_two_days(), MINUTE)


def test_a_file_of_which_nothing_is_known_has_no_newest_trade(lake: Lake) -> None:
    """Its rows may be of any time; the newest trade is that of the files which say theirs."""
    metrics = "write.metadata.metrics.default"
    table = external_tables.create_table(
        lake, COLUMNS, [vars(trade("2", AT + DAY))], properties={metrics: "none"}
    )
    lake = Lake(lake.catalog, ExternalTradesConfig(table.name()))
    assert newest_trade_time(lake.trades()) is None
    table_history.set_properties(table, {metrics: "full"})
    external_tables.add_rows(table, [vars(trade("1", AT))])
    assert newest_trade_time(lake.trades()) == AT


def test_a_file_that_is_gone_for_good_ends_the_run(
    filled: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody committed meanwhile, so trying again would find the same: the file is named at once."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    (path, *_) = lakes.list_data_files(filled.lake.candles(MINUTE))
    Path(path.removeprefix("file://")).unlink()
    with pytest.raises(FileNotFoundError, match=Path(path).name):
        filled.rebuild(MINUTE)
    assert waits == []


@pytest.fixture
def tied(each_engine: EngineLake) -> EngineLake:
    """Three trades of one moment: 9 is the first and 100 the last, though not so by their text."""
    prices = {"100": "3", "9": "1", "10": "2"}
    lakes.add_trades(each_engine.lake, [trade(name, AT, price) for name, price in prices.items()])
    return each_engine


def test_ids_of_one_moment_are_ordered_by_their_length_first(tied: EngineLake) -> None:
    tied.refresh(MINUTE)
    (candle,) = lakes.read_candles(tied.lake, MINUTE)
    assert (candle.open_price, candle.close_price) == (Decimal(1), Decimal(3))
    assert Interval(candle.window_start, candle.window_end) == MINUTE.window(AT)
