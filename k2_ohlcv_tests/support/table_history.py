"""What other writers do to a table: rewrites, compactions, rollbacks, expiry, properties."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import uuid4

import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Operation, Summary
from pyiceberg.table.update.snapshot import _OverwriteFiles
from pyiceberg.typedef import EMPTY_DICT, Record

from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE
from k2_ohlcv.lake.watermark import SNAPSHOT_PROPERTY, Watermark


def rewrite_files(
    table: Table, tasks: Sequence[FileScanTask], change: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    """Replace files by one file of their changed rows, as a copy-on-write engine does."""
    _replace(table, tasks, change, _Overwrite)


def compact_files(table: Table, tasks: Sequence[FileScanTask]) -> None:
    """Replace files by new files with the same rows, in a `replace` snapshot."""
    _replace(table, tasks, lambda rows: rows.reverse(), _Compaction)


class _Overwrite(_OverwriteFiles):
    """An overwrite that reads every manifest. PyIceberg's shared evaluator may skip one across threads."""

    def _build_manifest_evaluator(self, spec_id: int) -> Callable[[ManifestFile], bool]:
        return lambda _: True


class _Compaction(_Overwrite):
    """An overwrite that is recorded as `replace`, which PyIceberg itself never writes."""

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        summary = super()._summary(snapshot_properties)
        return Summary(Operation.REPLACE, **summary.additional_properties)


def _replace(
    table: Table,
    tasks: Sequence[FileScanTask],
    change: Callable[[pl.DataFrame], pl.DataFrame],
    kind: type[_OverwriteFiles],
) -> None:
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    rows = scan.to_table(tasks)
    changed = change(pl.DataFrame(rows)).to_arrow().cast(rows.schema)
    with table.transaction() as transaction:
        producer = kind(Operation.OVERWRITE, transaction, table.io)
        for task in tasks:
            producer.delete_data_file(task.file)
        for file in _dataframe_to_data_files(table.metadata, changed, table.io, write_uuid=uuid4()):
            producer.append_data_file(file)
        producer.commit()


def add_to_wrong_day(table: Table, day: datetime) -> None:
    """Add the table's first row again, in a file of another day's partition."""
    row = table.scan().to_arrow().slice(0, 1)
    with table.transaction() as transaction:
        producer = _OverwriteFiles(Operation.OVERWRITE, transaction, table.io)
        for file in _dataframe_to_data_files(table.metadata, row, table.io, write_uuid=uuid4()):
            file._data[3] = Record(Grain.DAY.ordinal(day))  # the partition, which has no setter
            producer.append_data_file(file)
        producer.commit()


def roll_back(table: Table, snapshot_id: int) -> None:
    """Make an earlier snapshot the current one."""
    table.manage_snapshots().rollback_to_snapshot(snapshot_id).commit()


def expire_snapshot(table: Table, snapshot_id: int) -> None:
    """Expire one snapshot."""
    table.maintenance.expire_snapshots().by_id(snapshot_id).commit()


def current_snapshot_id(table: Table) -> int:
    """The id of the current snapshot."""
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return snapshot.snapshot_id


def set_properties(table: Table, properties: Mapping[str, str]) -> None:
    """Set table properties in a commit without a snapshot."""
    table.transaction().set_properties(dict(properties)).commit_transaction()


def freeze_trades(trades: Table, before: datetime) -> None:
    """Set `frozen_before`, as retention of trades does."""
    set_properties(trades, {FROZEN_BEFORE: before.isoformat()})


def forget_watermark(candles: Table) -> None:
    """Remove the watermark of a candle table, so that everything is dirty."""
    candles.transaction().remove_properties(SNAPSHOT_PROPERTY).commit_transaction()


def read_watermark(candles: Table) -> Watermark:
    """The watermark that a candle table must have."""
    watermark = Watermark.from_table(candles)
    assert watermark is not None
    return watermark
