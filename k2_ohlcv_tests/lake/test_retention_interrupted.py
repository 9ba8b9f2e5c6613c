"""Retention that is killed at any step, and the run after it."""

import pkgutil
from datetime import UTC, datetime

import pytest

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance.orphan_files import remove_orphans
from k2_ohlcv.lake.maintenance.snapshot_expiry import expire_snapshots
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.daily_candles import (
    FAR_FUTURE,
    assert_candles_from_bound,
    drop_days,
    load_candles,
    trades_of_days,
    when_orphans_are_old,
)


class Killed(BaseException):
    """The process is killed."""


def run_retention(lake: Lake, now: datetime | None = None) -> None:
    """Run the three steps of retention on a table."""
    drop_days(lake)
    expire_snapshots(load_candles(lake), FAR_FUTURE)
    remove_orphans(load_candles(lake), now or datetime.now(UTC))


@pytest.mark.parametrize("calls", range(1, 9))
@pytest.mark.parametrize(
    "target",
    [
        "pyiceberg.table.Transaction.commit_transaction",
        "pyiceberg.table.Table._do_commit",
        "k2_ohlcv.lake.maintenance.snapshot_expiry.files_only_referenced_by",
        "k2_ohlcv.lake.maintenance.snapshot_expiry.remove_unreached",
        "k2_ohlcv.lake.maintenance.table_files.TableFiles._remove_file",
        "k2_ohlcv.lake.maintenance.table_files.TableFiles._remove_empty_folders",
    ],
)
def test_after_a_kill_tables_are_readable_and_the_next_run_finishes(
    twenty_days: Lake, monkeypatch: pytest.MonkeyPatch, target: str, calls: int
) -> None:
    """The next run leaves the same files as a run without a kill. Orphans are old by then."""
    module, _, name = target.rpartition(".")
    owner = pkgutil.resolve_name(module)
    real, count = getattr(owner, name), [0]

    def kill_at_call(*args: object, **options: object) -> object:
        count[0] += 1
        if count[0] == calls:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(owner, name, kill_at_call)
    try:
        run_retention(twenty_days)
    except Killed:
        table = twenty_days.candles(MINUTE)
        assert lakes.read_candles(twenty_days, MINUTE) in (
            aggregate(trades_of_days(20), MINUTE),
            aggregate(trades_of_days(20)[30:], MINUTE),
        )
        for snapshot in table.snapshots():
            table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()
    monkeypatch.undo()
    run_retention(twenty_days, when_orphans_are_old())
    assert_candles_from_bound(twenty_days)
    table = twenty_days.candles(MINUTE)
    assert len(table.snapshots()) == 1
    assert lakes.list_parquet_files(table) == set(lakes.list_data_files(table))
