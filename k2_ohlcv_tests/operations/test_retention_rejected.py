"""Retention of `rejected_trades`: every row stays, and what only old snapshots or nobody needs goes."""

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


def refuse(lake: Lake, source: str) -> None:
    """Two rows of a file, in a commit."""
    row = {"source": source, "reason": "no price", "raw": "?", "exchange": "X", "symbol": "A"}
    rows = pa.Table.from_pylist([row | {"line": line} for line in (1, 2)])
    assert rejected.append_rejected(lake, rows, datetime.now(UTC)) == 2


@pytest.fixture
def lake(lake: Lake) -> Lake:
    for number in range(COMMITS):
        refuse(lake, f"{number}.csv")
    return lake


def let_go(lake: Lake, *, apply: bool = True, **environ: str) -> TableReport:
    report = retention(lake, Settings.from_environ(environ).retention, apply=apply)
    (found,) = [table for table in report.tables if table.table == REJECTED_SPEC.name]
    return found


def ids(table: Table) -> set[int]:
    return {snapshot.snapshot_id for snapshot in table.snapshots()}


def test_only_snapshots_that_are_old_and_unnamed_expire(lake: Lake) -> None:
    """With them the files that only they reached; the rows all stay."""
    table = lake.rejected()
    tagged = table.history()[1].snapshot_id
    table.manage_snapshots().create_tag(tagged, "audit").commit()
    before = ids(lake.rejected())
    assert len(before) == COMMITS
    assert let_go(lake).snapshots_expired == 0, "they are young"
    assert let_go(lake, apply=False, K2_SNAPSHOT_DAYS="0").snapshots_expired == 0
    assert ids(lake.rejected()) == before
    report = let_go(lake, K2_SNAPSHOT_DAYS="0")
    assert ids(lake.rejected()) == {tagged, table_history.current_snapshot_id(lake.rejected())}
    assert report.snapshots_expired == COMMITS - 2
    assert report.files_removed > 0
    assert (report.partitions, report.rows, report.cutoff) == ((), 0, None)
    assert lake.rejected().scan().to_arrow().num_rows == 2 * COMMITS
    assert lake.rejected().scan(snapshot_id=tagged).to_arrow().num_rows == 4


def test_only_files_that_are_old_and_unknown_go(lake: Lake) -> None:
    folder = Path(lake.rejected().location().removeprefix("file://"))
    old, young = folder / "data" / "old.parquet", folder / "data" / "young.parquet"
    for path in (old, young):
        path.write_bytes(b"x" * 1000)
    age = time.time() - ORPHAN_AGE.total_seconds() - 60
    for path in [old, *(folder / "metadata").iterdir()]:
        os.utime(path, (age, age))
    report = let_go(lake)
    assert (old.exists(), young.exists()) == (False, True)
    assert (report.files_removed, report.bytes_freed) == (1, 1000)
    assert lake.rejected().scan().to_arrow().num_rows == 2 * COMMITS


def test_it_is_looked_after_with_our_trades_only(lake: Lake, tmp_path: Path) -> None:
    """Not with one candle table, nor beside someone else's trades; and retention does not create it."""
    kept = Settings.from_environ({}).retention
    assert [t.table for t in retention(lake, kept, timeframes=TIMEFRAMES[:1]).tables] == [TIMEFRAMES[0].table]
    table = external_tables.create_table(lake, external_tables.COLUMNS)
    others = Lake(lake.catalog, ExternalTradesConfig(table.name()))
    assert [t.table for t in retention(others, kept).tables] == [t.table for t in TIMEFRAMES]
    new = Lake.open(Settings.from_environ({"K2_HOME": str(tmp_path / "new")}))
    assert REJECTED_SPEC.name not in [t.table for t in retention(new, kept, apply=True).tables]
    assert not new.catalog.table_exists(REJECTED_SPEC.identifier)
