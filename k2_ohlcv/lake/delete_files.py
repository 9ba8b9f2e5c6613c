"""Row-level deletes of other engines in tables that this project writes: read beside, refused, or dropped.

PyIceberg 0.12 reads position deletes, and raises at any equality delete that it meets. So whoever reads a
table of ours plans its files here. What deletes bear on is in `row_deletes`.
"""

from collections.abc import Iterable, Sequence

from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.intervals import Interval, coalesce, is_covered
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.metadata.files import (
    LiveFile,
    deletes_with_sequence,
    file_partition,
    files_with_sequence,
    manifest_files_with_sequence,
)
from k2_ohlcv.lake.metadata.row_deletes import RowDeletes, is_equality_delete

#: Ranges and files, as many as an error names.
_MAX_SAMPLE_FILES = 5


def reject_equality_deletes(table: Table) -> None:
    """Look for equality deletes before a table is read or written beside them.

    Raises:
        ContractError: there are some; the message names files, and what to do.
    """
    snapshot = table.metadata.current_snapshot_id
    found = (
        [f for f, _ in deletes_with_sequence(table, snapshot) if is_equality_delete(f)] if snapshot else []
    )
    if not found:
        return
    name = ".".join(table.name())
    paths = ", ".join(file.file_path for file in found[:_MAX_SAMPLE_FILES])
    more = ", ..." if len(found) > _MAX_SAMPLE_FILES else ""
    raise TableSpecError(
        f"table {name} has {len(found):,} equality delete files of another engine ({paths}{more}), which "
        f"cannot be read here. Nothing was written. {_cure(name)}, then run this again"
    )


def _cure(name: str) -> str:
    """How equality deletes are applied without us."""
    return (
        "Apply them with the engine that made them, in Spark: CALL k2.system.rewrite_data_files(table => "
        f"'{name}', options => map('delete-file-threshold', '1', 'remove-dangling-deletes', 'true'))"
    )


def has_unreadable_deletes(deletes: Iterable[DataFile]) -> bool:
    """Whether among the deletes that bear on a data file there are some that cannot be read."""
    return any(is_equality_delete(delete) for delete in deletes)


def plan_scan_tasks(
    table: Table, timeframe: Timeframe, files: Sequence[LiveFile], is_rebuild: Sequence[Interval] = ()
) -> tuple[list[FileScanTask], set[int]]:
    """The scan tasks of some files of a candle table, with the deletes that bear on each.

    A file with equality deletes whose partition is rebuilt as a whole is read as if it had none. What it
    holds is compared with what must be and then written anew, so that the deletes bear on it no longer.

    Args:
        table: the table.
        timeframe: what it has candles of.
        files: live data files.
        is_rebuild: the intervals that are made equal to the trades.

    Returns:
        The tasks, and the indexes of those that have to be written anew.

    Raises:
        ContractError: other files have equality deletes; the message names what to rebuild.
    """
    snapshot = table.metadata.current_snapshot_id
    deletes = RowDeletes.from_snapshot(table, snapshot) if snapshot is not None else RowDeletes()
    tasks: list[FileScanTask] = []
    anew: set[int] = set()
    refused: list[Interval] = []
    for index, live in enumerate(files):
        bearing = deletes.deletes_for(live.file, live.sequence)
        if has_unreadable_deletes(bearing):
            partition = file_partition(live.file, timeframe.grain)
            anew.add(index)
            if not is_covered(is_rebuild, [partition]):
                refused.append(partition)
            bearing = []
        tasks.append(FileScanTask(live.file, set(bearing)))
    if refused:
        raise _unreadable_error(table, timeframe, refused)
    return tasks, anew


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
        f"They bear on {len(set(partitions)):,} partitions. Rebuild these whole, which writes them anew and "
        f"drops the deletes: {commands}{more}. What lies past retention there cannot be rebuilt: "
        f"{_cure(name)}"
    )


def applicable_delete_manifests(
    table: Table, manifests: Sequence[ManifestFile], removed: Iterable[DataFile]
) -> list[ManifestFile]:
    """Those delete manifests that bear on any data file after a commit that removes some; all others go.

    What the commit adds is younger than every delete, so that none bears on it.
    """
    listed = [m for m in manifests if m.content == ManifestContent.DELETES]
    snapshot = table.metadata.current_snapshot_id
    if not listed or snapshot is None:
        return listed
    gone = {file.file_path for file in removed}
    left = [n for n in files_with_sequence(table, snapshot) if n[0].file_path not in gone]
    return [
        m
        for m in listed
        if _is_applicable(RowDeletes.from_files(table, manifest_files_with_sequence(table, m)), left)
    ]


def _is_applicable(deletes: RowDeletes, files: Iterable[tuple[DataFile, int]]) -> bool:
    return any(deletes.deletes_for(file, sequence) for file, sequence in files)
