"""Handles row-level deletes of other engines in the project's tables: applies, refuses or drops them.

PyIceberg 0.12 applies position deletes, and raises an error at any equality delete. Readers of the project's
tables therefore plan their scan tasks here. The scope of a delete file is in `metadata.row_deletes`.
"""

from collections.abc import Iterable, Sequence

from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.intervals import Interval, coalesce, is_covered
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.metadata.files import LiveFile, file_partition, live_files
from k2_ohlcv.lake.metadata.manifests import (
    deletes_with_sequence,
    files_with_sequence,
    manifest_files_with_sequence,
)
from k2_ohlcv.lake.metadata.row_deletes import RowDeletes, is_equality_delete

#: Maximum number of ranges or files in an error text.
_MAX_SAMPLE_FILES = 5


def reject_equality_deletes(table: Table) -> None:
    """Refuse a table that has equality deletes, before a read or a write.

    Raises:
        TableSpecError: the table has equality deletes; the message names the files and the next step.
    """
    snapshot = table.metadata.current_snapshot_id
    if snapshot is None:
        return
    files = [file for file, _ in deletes_with_sequence(table, snapshot) if is_equality_delete(file)]
    if not files:
        return
    name = ".".join(table.name())
    paths = ", ".join(file.file_path for file in files[:_MAX_SAMPLE_FILES])
    more = ", ..." if len(files) > _MAX_SAMPLE_FILES else ""
    raise TableSpecError(
        f"table {name} has {len(files):,} equality delete files of another engine ({paths}{more}), which "
        f"cannot be read here. Nothing was written. {_advice(name)}, then run this again"
    )


def _advice(name: str) -> str:
    """Advice to apply the equality deletes with another engine."""
    return (
        "Apply them with the engine that wrote them, in Spark: CALL k2.system.rewrite_data_files(table => "
        f"'{name}', options => map('delete-file-threshold', '1', 'remove-dangling-deletes', 'true'))"
    )


def has_unreadable_deletes(deletes: Iterable[DataFile]) -> bool:
    """Whether PyIceberg cannot apply one of the deletes of a data file."""
    return any(is_equality_delete(delete) for delete in deletes)


def plan_scan_tasks(
    table: Table, timeframe: Timeframe, files: Sequence[LiveFile], rebuilt: Sequence[Interval] = ()
) -> tuple[list[FileScanTask], set[int]]:
    """Plan the scan tasks of candle files, each with the deletes that apply to the file.

    A file with equality deletes is read without them if its whole partition is rebuilt. The rebuild then
    rewrites the file, so that the deletes no longer apply.

    Args:
        table: the candle table.
        timeframe: the timeframe of the table.
        files: live data files.
        rebuilt: the intervals that are made equal to the trades.

    Returns:
        The tasks, and the indexes of the files to rewrite.

    Raises:
        TableSpecError: other files have equality deletes; the message names the partitions to rebuild.
    """
    snapshot = table.metadata.current_snapshot_id
    row_deletes = RowDeletes.from_snapshot(table, snapshot) if snapshot is not None else RowDeletes()
    tasks: list[FileScanTask] = []
    to_rewrite: set[int] = set()
    refused: list[Interval] = []
    for index, live in enumerate(files):
        deletes = row_deletes.deletes_for(live.file, live.sequence)
        if has_unreadable_deletes(deletes):
            partition = file_partition(live.file, timeframe.grain)
            to_rewrite.add(index)
            if not is_covered(rebuilt, [partition]):
                refused.append(partition)
            deletes = []
        tasks.append(FileScanTask(live.file, set(deletes)))
    if refused:
        raise _unreadable_error(table, timeframe, refused)
    return tasks, to_rewrite


def partitions_with_unreadable_deletes(table: Table, timeframe: Timeframe) -> set[Interval]:
    """The partitions of the candle files to which deletes apply that cannot be read here."""
    snapshot = table.metadata.current_snapshot_id
    deletes = RowDeletes.from_snapshot(table, snapshot) if snapshot is not None else RowDeletes()
    if deletes == RowDeletes():
        return set()
    return {
        file_partition(live.file, timeframe.grain)
        for live in live_files(table, snapshot)
        if not live.is_delete and has_unreadable_deletes(deletes.deletes_for(live.file, live.sequence))
    }


def _unreadable_error(table: Table, timeframe: Timeframe, partitions: Sequence[Interval]) -> TableSpecError:
    ranges = coalesce(partitions)
    commands = "; ".join(
        f"k2-ohlcv rebuild --timeframe {timeframe.name} --from {r.start:%Y-%m-%d} --to {r.end:%Y-%m-%d}"
        for r in ranges[:_MAX_SAMPLE_FILES]
    )
    more = f" and {len(ranges) - _MAX_SAMPLE_FILES} more ranges" if len(ranges) > _MAX_SAMPLE_FILES else ""
    name = ".".join(table.name())
    return TableSpecError(
        f"table {name} has equality deletes of another engine, which cannot be read here. "
        f"They apply to {len(set(partitions)):,} partitions. Rebuild each whole partition. This rewrites "
        f"its files and drops the deletes: {commands}{more}. Candles past retention cannot be rebuilt: "
        f"{_advice(name)}"
    )


def applicable_delete_manifests(
    table: Table, manifests: Sequence[ManifestFile], removed: Iterable[DataFile]
) -> list[ManifestFile]:
    """The delete manifests that still apply to a data file after a commit that removes some data files.

    Files that the commit adds are newer than every delete, so no delete applies to them.
    """
    delete_manifests = [m for m in manifests if m.content == ManifestContent.DELETES]
    snapshot = table.metadata.current_snapshot_id
    if not delete_manifests or snapshot is None:
        return delete_manifests
    removed_paths = {file.file_path for file in removed}
    remaining = [
        (file, sequence)
        for file, sequence in files_with_sequence(table, snapshot)
        if file.file_path not in removed_paths
    ]
    return [
        m
        for m in delete_manifests
        if _is_applicable(RowDeletes.from_files(table, manifest_files_with_sequence(table, m)), remaining)
    ]


def _is_applicable(deletes: RowDeletes, files: Iterable[tuple[DataFile, int]]) -> bool:
    return any(deletes.deletes_for(file, sequence) for file, sequence in files)
