"""A lake whose catalog is lost or old, and the restore of its catalog."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io import FileIO
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update.snapshot import _SnapshotProducer

from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.catalog_pointer import sql_catalog
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.operations.pointer_move import TableRestore
from k2_ohlcv.operations.restore_catalog import restore_catalog
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.daily_candles import put_candles, trades_of_days

TABLES = (TRADES_TABLE, MINUTE.table)
Reopen = Callable[[], Lake]


def commit_days(lake: Lake, first: int, last: int) -> None:
    """Commit trades and candles, a commit a day."""
    for day in range(first, last):
        trades = trades_of_days(last)[3 * day : 3 * day + 3]
        lakes.add_trades(lake, trades)
        put_candles(lake, trades)


def contents(lake: Lake) -> tuple[list[object], list[object]]:
    """All trades and all 1m candles, in order."""
    return sorted(lakes.all_trades(lake), key=str), list(lakes.read_candles(lake, MINUTE))


def lose_catalog(lake: Lake, home: Path) -> None:
    """Delete the file of the catalog."""
    lake.catalog.close()
    (home / "catalog.db").unlink()


def restore(lake: Lake, **options: object) -> dict[str, TableRestore]:
    """Restore the catalog. Returns the steps by table."""
    options = {"apply": True, **options}
    return {step.table: step for step in restore_catalog(lake, **options)}  # type: ignore[arg-type]


def actions(lake: Lake, **options: object) -> tuple[str, ...]:
    """Restore the catalog. Returns what happened to trades and to 1m candles."""
    steps = restore(lake, **options)
    return tuple(steps[table].action for table in TABLES)


def newest(table: Table) -> str:
    """The metadata file that the catalog names."""
    return table.metadata_location


def lose_a_race(lake: Lake, monkeypatch: pytest.MonkeyPatch, *, killed: bool = True) -> str:
    """Commit trades in two writers from the same base. Returns the metadata file of the one that lost.

    A writer that is not killed removes its other files.
    """
    if killed:
        for name in ("_cleanup_uncommitted", "_clean_all_uncommitted"):
            monkeypatch.setattr(_SnapshotProducer, name, lambda _: None)
    catalog = sql_catalog(lake.catalog)
    written: list[str] = []

    class Late(SqlCatalog):  # the real catalog, with the other writer in between
        def _write_metadata(self, metadata: TableMetadata, io: FileIO, metadata_path: str) -> None:  # type: ignore[override]
            super()._write_metadata(metadata, io, metadata_path)
            written.append(metadata_path)
            lakes.add_trades(lake, trades_of_days(30)[-3:])

    slow = Lake(Late(catalog.name, **catalog.properties))
    with pytest.raises(CommitFailedException):
        lakes.add_trades(slow, trades_of_days(31)[-3:])
    slow.catalog.close()
    return written[0]
