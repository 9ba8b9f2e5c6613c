"""Delete files of other engines in our tables: rebuilds repair candles, and errors say how."""

from datetime import timedelta

import pytest
from pyiceberg.manifest import ManifestContent
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.lake.candles import StoredCandles
from k2_ohlcv.lake.delete_files import reject_equality_deletes
from k2_ohlcv.lake.metadata.files import file_partition, live_files
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade

MINUTE = find_timeframe("1m")
#: Three trades a day, for three days.
TRADES = [
    make_trade(9 * day + i, AT + day * DAY + i * timedelta(minutes=1)) for day in range(3) for i in range(3)
]
DAYS = Grain.DAY.partitions([Grain.DAY.partition(t.timestamp) for t in TRADES])


def refresh_three_days(each_engine: EngineLake) -> Table:
    """Candles of three days, in one file per day."""
    lakes.add_trades(each_engine.lake, TRADES)
    each_engine.refresh(MINUTE)
    return each_engine.lake.candles(MINUTE)


def delete_candles(table: Table, *days: int) -> None:
    """Delete the candles of one minute of these days, in one commit per day, as an upserting engine does."""
    for day in days:
        at = AT + day * DAY + timedelta(minutes=1)
        files = live_files(table.refresh(), table.metadata.current_snapshot_id)
        (file,) = (f for f in files if not f.is_delete and at in file_partition(f.file, Grain.DAY))
        external_tables.delete_equal(
            table, ["window_start"], [(MINUTE.floor(at),)], partition=file.file.partition
        )


def count_delete_manifests(each_engine: EngineLake) -> int:
    table = each_engine.lake.candles(MINUTE)
    snapshot = table.current_snapshot()
    return sum(m.content == ManifestContent.DELETES for m in snapshot.manifests(table.io))


def test_a_rebuild_of_all_partitions_drops_equality_deletes(sail: EngineLake) -> None:
    """PyIceberg cannot read such a table. No delete applies to the new files."""
    table = refresh_three_days(sail)
    delete_candles(table, 0, 2)
    assert count_delete_manifests(sail) == 2
    sail.rebuild(MINUTE, DAYS)
    assert count_delete_manifests(sail) == 0
    sail.assert_equal_to_trades(TRADES, MINUTE)
    assert all(f.is_ok for f in sail.validate(MINUTE, DAYS))


def test_a_smaller_rebuild_repairs_its_own_partitions(sail: EngineLake) -> None:
    """Reading other partitions fails. The error names the partitions that need a rebuild."""
    table = refresh_three_days(sail)
    delete_candles(table, 0, 2)
    sail.rebuild(MINUTE, DAYS[:1])
    assert count_delete_manifests(sail) == 1
    assert all(f.is_ok for f in sail.validate(MINUTE, DAYS[:2]))
    arguments = f"--from {DAYS[2].start:%Y-%m-%d} --to {DAYS[2].end:%Y-%m-%d}"
    with pytest.raises(TableSpecError, match=f"equality deletes.*rebuild --timeframe 1m {arguments}"):
        sail.validate(MINUTE, DAYS)
    with pytest.raises(TableSpecError, match=f"rebuild --timeframe 1m {arguments}"):
        StoredCandles.load(sail.lake.candles(MINUTE), MINUTE, [MINUTE.window(AT + 2 * DAY)])
    sail.rebuild(MINUTE, DAYS[2:])
    assert count_delete_manifests(sail) == 0
    sail.assert_equal_to_trades(TRADES, MINUTE)


def test_deletes_past_retention_need_the_engine_that_wrote_them(sail: EngineLake) -> None:
    """No rebuild may compute the whole month that contains `frozen_before`."""
    table, daily = refresh_three_days(sail), find_timeframe("1d")
    sail.refresh(daily)
    table_history.freeze_trades(sail.lake.trades(), DAYS[1].start)
    table = sail.lake.candles(daily)
    external_tables.delete_equal(table, ["window_start"], [(DAYS[0].start,)], partition=_partition(table))
    with pytest.raises(TableSpecError, match=r"past retention.*rewrite_data_files.*gold_ohlcv_1d"):
        sail.rebuild(daily, DAYS[:1])


def test_a_refresh_repairs_what_another_engine_deleted(sail: EngineLake) -> None:
    """The refresh finds the external commits and reconciles their partitions as a whole."""
    table = refresh_three_days(sail)
    delete_candles(table, 0, 2)
    lakes.add_trades(sail.lake, [late_trade := make_trade(100, AT + 2 * DAY)])
    sail.refresh(MINUTE)
    assert count_delete_manifests(sail) == 0
    sail.assert_equal_to_trades([*TRADES, late_trade], MINUTE)


def test_position_deletes_of_candles_are_read_and_go_with_their_file(sail: EngineLake) -> None:
    """PyIceberg reads position deletes, and a rebuild adds the deleted candle again."""
    table = refresh_three_days(sail)
    external_tables.delete_positions(
        table, [(lakes.list_data_files(table)[0], 0)], partition=_partition(table)
    )
    assert sail.rebuild(MINUTE, DAYS).counts.added == 1
    sail.assert_equal_to_trades(TRADES, MINUTE)
    sail.rebuild(MINUTE, DAYS)
    sail.assert_equal_to_trades(TRADES, MINUTE)


def _partition(table: Table) -> Record:
    first = lakes.list_data_files(table)[0]
    return next(task.file.partition for task in table.scan().plan_files() if task.file.file_path == first)


def test_equality_deletes_on_trades_are_refused_by_name(sail: EngineLake) -> None:
    """Readers without an engine refuse such a table. The engine reads it."""
    table = lakes.add_trades(sail.lake, TRADES[:2])
    reject_equality_deletes(table)
    external_tables.delete_equal(table, ["trade_id"], [("0",)], partition=_partition(table))
    with pytest.raises(TableSpecError, match=r"1 equality delete files.*rewrite_data_files"):
        reject_equality_deletes(table.refresh())
    sail.refresh(MINUTE)
    sail.assert_equal_to_trades([t for t in TRADES[:2] if t.trade_id != "0"], MINUTE)
