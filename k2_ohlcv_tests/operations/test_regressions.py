"""Rules that could once be broken without a failing test: one plain example each, tested from outside."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform
from pyiceberg.typedef import Record

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


def trade(name: str, at: datetime, price: str = "100") -> Trade:
    return make_trade(name, at, price, 1, market=("X", "Y"))


def two_days_of_trades() -> list[Trade]:
    """Three trades a day, each in its own window."""
    return [trade(f"{d}{m}", AT + d * DAY + timedelta(minutes=m)) for d in range(2) for m in range(3)]


@pytest.fixture
def filled(sail: EngineLake) -> EngineLake:
    """Two days of our own trades, one file each, and their 1m candles."""
    lakes.add_trades(sail.lake, two_days_of_trades())
    sail.refresh(MINUTE)
    return sail


def day_file(table: Table, moment: datetime) -> tuple[str, Record]:
    """The only file of a day, and its partition."""
    (task,) = [
        t
        for t in table.scan().plan_files()
        if t.file.partition[0] == Grain.DAY.ordinal(day_interval(moment).start)
    ]
    return task.file.file_path, task.file.partition


def delete_first_row(table: Table, moment: datetime) -> None:
    """Delete the first row of a day's file. The delete file names the day, not the file."""
    path, partition = day_file(table, moment)
    external_tables.delete_positions(table, [(path, 0)], partition=partition)


def test_a_delete_file_that_names_no_file_dirties_its_partition(filled: EngineLake) -> None:
    """Only the candle of the deleted trade is removed."""
    delete_first_row(filled.lake.trades(), AT + DAY)
    filled.refresh(MINUTE)
    assert lakes.read_candles(filled.lake, MINUTE) == aggregate(
        [t for t in two_days_of_trades() if t.trade_id != "10"], MINUTE
    )


@pytest.mark.parametrize("current_spec", ["unpartitioned", "partitioned"])
def test_unpartitioned_deletes_apply_to_every_partition(lake: Lake, current_spec: str) -> None:
    """Equality deletes of an unpartitioned spec apply to all files, whether the spec is old or current."""
    table = external_tables.create_table(lake, external_tables.EXACT_COLUMNS)
    with table.update_spec() as spec:
        spec.add_field("timestamp", DayTransform(), "day")
    external_tables.add_rows(table, [vars(t) for t in two_days_of_trades()])
    if current_spec == "partitioned":
        with table.update_spec() as spec:
            spec.remove_field("day")
    before = table_history.current_snapshot_id(table)
    unpartitioned = next(spec for spec in table.specs().values() if not spec.fields)
    external_tables.delete_equal(table, ["trade_id"], [("11",)], partition=Record(), spec=unpartitioned)
    trades = Lake(lake.catalog, ExternalTradesConfig(table.name())).trades()
    diff = diff_snapshots(trades, before, table_history.current_snapshot_id(trades))
    window = MINUTE.window(AT + DAY + timedelta(minutes=1))
    assert diff.reason is not None or is_covered(diff.bounds, [window])


class _DeletingCompaction(table_history._Compaction):
    """A compaction that applies row-level deletes and removes their files."""

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        data = [m for m in manifests if m.content == ManifestContent.DATA]
        return super()._process_manifests(data)


def test_a_compaction_that_applies_deletes_changes_rows(filled: EngineLake) -> None:
    """Rows that were deleted, then left out by a compaction, are removed rows for an older watermark."""
    delete_first_row(filled.lake.trades(), AT + DAY)
    table = filled.lake.trades()
    tasks = [t for t in table.scan().plan_files() if t.delete_files]
    table_history._replace(table, tasks, lambda rows: rows, _DeletingCompaction)
    remaining = [t for t in two_days_of_trades() if t.trade_id != "10"]
    assert sorted(t.trade_id for t in lakes.all_trades(filled.lake)) == sorted(t.trade_id for t in remaining)
    assert not any(t.delete_files for t in filled.lake.trades().scan().plan_files())
    filled.refresh(MINUTE)
    assert lakes.read_candles(filled.lake, MINUTE) == aggregate(remaining, MINUTE)


def test_a_compacted_file_counts_as_removed_if_a_result_is(filled: EngineLake) -> None:
    """One snapshot compacts two days, then one result is deleted. Its candles are removed."""
    table = filled.lake.trades()
    table_history.compact_files(table, list(table.scan().plan_files()))
    table = filled.lake.trades()
    table.delete(f"timestamp >= '{day_interval(AT + DAY).start.isoformat()}'")
    filled.refresh(MINUTE)
    assert lakes.read_candles(filled.lake, MINUTE) == aggregate(two_days_of_trades()[:3], MINUTE)


def test_a_row_in_the_file_of_another_partition_is_found_by_that_file(filled: EngineLake) -> None:
    """A rebuild of the file's partition removes the row, although the row's time is in another partition."""
    table_history.add_to_wrong_day(filled.lake.candles(MINUTE), day_interval(AT + DAY).start)
    assert len(lakes.read_frame(filled.lake, MINUTE)) == len(two_days_of_trades()) + 1
    filled.rebuild(MINUTE, [day_interval(AT + DAY)])
    assert lakes.read_candles(filled.lake, MINUTE) == aggregate(two_days_of_trades(), MINUTE)


def test_files_without_statistics_have_no_newest_trade(lake: Lake) -> None:
    """Such rows may have any time. The newest trade comes from files with statistics."""
    metrics = "write.metadata.metrics.default"
    table = external_tables.create_table(
        lake, external_tables.EXACT_COLUMNS, [vars(trade("2", AT + DAY))], properties={metrics: "none"}
    )
    lake = Lake(lake.catalog, ExternalTradesConfig(table.name()))
    assert newest_trade_time(lake.trades()) is None
    table_history.set_properties(table, {metrics: "full"})
    external_tables.add_rows(table, [vars(trade("1", AT))])
    assert newest_trade_time(lake.trades()) == AT


def test_a_missing_data_file_ends_the_run(filled: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other writer committed, so a retry would fail too. The file is named immediately."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    (path, *_) = lakes.list_data_files(filled.lake.candles(MINUTE))
    Path(path.removeprefix("file://")).unlink()
    with pytest.raises(FileNotFoundError, match=Path(path).name):
        filled.rebuild(MINUTE)
    assert pauses == []


@pytest.fixture
def tied(each_engine: EngineLake) -> EngineLake:
    """Three trades of one time. By number 9 is the first id and 100 the last, but not by text."""
    prices = {"100": "3", "9": "1", "10": "2"}
    lakes.add_trades(each_engine.lake, [trade(name, AT, price) for name, price in prices.items()])
    return each_engine


def test_ids_of_one_time_are_ordered_by_length_first(tied: EngineLake) -> None:
    """The id order decides the open and close prices."""
    tied.refresh(MINUTE)
    (candle,) = lakes.read_candles(tied.lake, MINUTE)
    assert (candle.open_price, candle.close_price) == (Decimal(1), Decimal(3))
    assert Interval(candle.window_start, candle.window_end) == MINUTE.window(AT)
