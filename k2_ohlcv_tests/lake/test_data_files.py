"""Rows written as data files: each file has rows of one partition, and every row is in one file."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.manifest import DataFile

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake import data_files
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.data_files import write_files
from k2_ohlcv.lake.metadata.files import file_partition
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

AT = datetime(2024, 2, 28, 12, tzinfo=UTC)


def day_of_trades(day: int, count: int) -> list[Trade]:
    return [
        make_trade(f"{day}-{number}", AT + day * DAY + number * timedelta(minutes=1))
        for number in range(count)
    ]


def write(lake: Lake, trades: Sequence[Trade]) -> list[DataFile]:
    table = lake.writable_trades()
    return list(write_files(table, lakes.to_trades_rows(table, trades)))


def read_ids(file: DataFile) -> list[str]:
    return lakes.read_data_file(file.file_path)["trade_id"].to_list()


def test_files_are_of_one_partition_and_of_bounded_size(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large partition is cut into files of nearly equal size, and no row is lost or repeated."""
    monkeypatch.setattr(data_files, "FILE_ROWS", 3)
    days = [day_of_trades(0, 7), day_of_trades(1, 3), day_of_trades(2, 1)]
    files = write(lake, [trade for day in days for trade in day])
    ids = [[trade.trade_id for trade in day] for day in days]
    expected = [ids[0][:3], ids[0][3:6], ids[0][6:], ids[1], ids[2]]
    assert [read_ids(file) for file in files] == expected
    assert [file.record_count for file in files] == [3, 3, 1, 3, 1]
    partitions = [Grain.DAY.partition(AT + day * DAY) for day in (0, 0, 0, 1, 2)]
    assert [file_partition(file, Grain.DAY) for file in files] == partitions


def test_files_of_two_writes_have_different_paths(lake: Lake) -> None:
    """Equal paths would overwrite the files of the earlier write."""
    first, second = write(lake, day_of_trades(0, 1)), write(lake, day_of_trades(0, 2))
    assert [len(read_ids(file)) for file in (*first, *second)] == [1, 2]
