"""Retention of `rejected_trades`: every row stays. Old snapshots and orphan files are removed."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake import rejected
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.schemas import REJECTED_SPEC
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.operations.retention_report import TableReport
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import external_tables, table_history

COMMITS = 4


def reject_rows(lake: Lake, source: str) -> None:
    row = {"source": source, "reason": "no price", "raw": "?", "exchange": "X", "symbol": "A"}
    rows = pa.Table.from_pylist([row | {"line": line} for line in (1, 2)])
    assert rejected.append_rejected(lake, rows, datetime.now(UTC)) == 2


@pytest.fixture
def lake(lake: Lake) -> Lake:
    """A lake with four commits of rejected rows."""
    for number in range(COMMITS):
        reject_rows(lake, f"{number}.csv")
    return lake


def run_retention(lake: Lake, *, apply: bool = True, **environ: str) -> TableReport:
    """Run retention. Returns the report of `rejected_trades`."""
    reports = retention(lake, Settings.from_environ(environ).retention, apply=apply)
    (report,) = [table for table in reports.tables if table.table == REJECTED_SPEC.name]
    return report


def snapshot_ids(table: Table) -> set[int]:
    return {snapshot.snapshot_id for snapshot in table.snapshots()}


def test_only_old_untagged_snapshots_expire(lake: Lake) -> None:
    """Files that only they reference are removed. All rows stay."""
    table = lake.rejected()
    tagged = table.history()[1].snapshot_id
    table.manage_snapshots().create_tag(tagged, "audit").commit()
    before = snapshot_ids(lake.rejected())
    assert len(before) == COMMITS
    assert run_retention(lake).snapshots_expired == 0, "the snapshots are young"
    assert run_retention(lake, apply=False, K2_SNAPSHOT_DAYS="0").snapshots_expired == 0
    assert snapshot_ids(lake.rejected()) == before
    report = run_retention(lake, K2_SNAPSHOT_DAYS="0")
    assert snapshot_ids(lake.rejected()) == {tagged, table_history.current_snapshot_id(lake.rejected())}
    assert report.snapshots_expired == COMMITS - 2
    assert report.files_removed > 0
    assert (report.partitions, report.rows, report.cutoff) == ((), 0, None)
    assert lake.rejected().scan().to_arrow().num_rows == 2 * COMMITS
    assert lake.rejected().scan(snapshot_id=tagged).to_arrow().num_rows == 4


def test_only_old_orphans_are_removed(lake: Lake) -> None:
    """A young orphan and every referenced file stay."""
    folder = Path(lake.rejected().location().removeprefix("file://"))
    old_file, young_file = folder / "data" / "old.parquet", folder / "data" / "young.parquet"
    for path in (old_file, young_file):
        path.write_bytes(b"x" * 1000)
    age = time.time() - ORPHAN_AGE.total_seconds() - 60
    for path in [old_file, *(folder / "metadata").iterdir()]:
        os.utime(path, (age, age))
    report = run_retention(lake)
    assert (old_file.exists(), young_file.exists()) == (False, True)
    assert (report.files_removed, report.bytes_freed) == (1, 1000)
    assert lake.rejected().scan().to_arrow().num_rows == 2 * COMMITS


def test_it_is_maintained_with_own_trades_only(lake: Lake, tmp_path: Path) -> None:
    """Retention of one candle table or beside external trades leaves it alone, and never creates it."""
    policy = Settings.from_environ({}).retention
    assert [t.table for t in retention(lake, policy, timeframes=TIMEFRAMES[:1]).tables] == [
        TIMEFRAMES[0].table
    ]
    table = external_tables.create_table(lake, external_tables.COLUMNS)
    external = Lake(lake.catalog, ExternalTradesConfig(table.name()))
    assert [t.table for t in retention(external, policy).tables] == [t.table for t in TIMEFRAMES]
    new_lake = Lake.open(Settings.from_environ({"K2_HOME": str(tmp_path / "new")}))
    assert REJECTED_SPEC.name not in [t.table for t in retention(new_lake, policy, apply=True).tables]
    assert not new_lake.catalog.table_exists(REJECTED_SPEC.identifier)
