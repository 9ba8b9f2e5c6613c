"""Compaction of trades: rewrites the small files of a partition as few files, without a change of rows.

The choice of partitions is in `domain.retention`. Refresh recognizes these commits by
`metadata.rewritten_files`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Operation

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.retention import SMALL_FILE_BYTES
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.data_files import FILE_ROWS, write_files
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, LiveFile, file_partition, live_files
from k2_ohlcv.lake.retry import CONFLICT_ERRORS

#: Partitions per commit. A conflict loses the work of one commit only. Larger commits make fewer snapshots.
BATCH_SIZE = 16

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CompactionResult:
    """The counts of a compaction.

    Attributes:
        partitions: the number of compacted partitions.
        before: the number of removed files.
        after: the number of written files.
    """

    partitions: int = 0
    before: int = 0
    after: int = 0

    def __add__(self, other: "CompactionResult") -> "CompactionResult":
        return CompactionResult(
            self.partitions + other.partitions,
            self.before + other.before,
            self.after + other.after,
        )


def compact_partitions(
    load: Callable[[], Table],
    partitions: Sequence[Interval],
    protected: Callable[[Table], Collection[int]] = lambda _: (),
) -> CompactionResult:
    """Rewrite the small files of trades partitions, sorted by time, as few files as memory allows.

    A commit that conflicts is not retried, because the other writer may soon write to the partitions again.

    Args:
        load: loads the current version of the trades table from the catalog.
        partitions: the partitions to compact.
        protected: snapshots that the commits may not expire.
    """
    result = CompactionResult()
    for first in range(0, len(partitions), BATCH_SIZE):
        batch = partitions[first : first + BATCH_SIZE]
        table = load()
        if _has_deletes(table):
            _log.info("tables with row-level deletes are not compacted", table=table.name()[-1])
            return result
        change = _build_commit(table, batch)
        if change is None:
            continue
        # Rewriting takes time. A tag may have been created meanwhile, so the table is loaded again.
        change = replace(change, protected=frozenset(protected(load())))
        try:
            commit_change(table, change)
        except CONFLICT_ERRORS as conflict:
            _log.warning("conflict", table=table.name()[-1], partitions=len(batch), error=str(conflict))
        else:
            result += CompactionResult(len(batch), len(change.removed_files), len(change.files))
    return result


def _build_commit(table: Table, partitions: Sequence[Interval]) -> TableCommit | None:
    """Rewrite the small files of the partitions; None where no partition has two small files to join."""
    files = live_files(table, table.metadata.current_snapshot_id)
    small = [f for f in files if f.file.file_size_in_bytes < SMALL_FILE_BYTES]
    removed: list[DataFile] = []
    written: list[DataFile] = []
    for partition in sorted(set(partitions)):
        for group in _group_files([f for f in small if file_partition(f.file, Grain.DAY) == partition]):
            removed += [f.file for f in group]
            written += _rewrite_group(table, group)
    if not removed:
        return None
    rows_read, rows_written = sum(f.record_count for f in removed), sum(f.record_count for f in written)
    assert rows_read == rows_written, f"compaction read {rows_read} rows and wrote {rows_written}"
    return TableCommit(removed_files=tuple(removed), files=tuple(written), operation=Operation.REPLACE)


def _group_files(files: Sequence[LiveFile]) -> Iterator[list[LiveFile]]:
    """Group files, in order of time, that become one file. A group of a single file is left out."""
    group: list[LiveFile] = []
    rows = 0
    for file in sorted(files, key=lambda f: (f.span, f.path)):
        if group and rows + file.file.record_count > FILE_ROWS:
            if len(group) > 1:
                yield group
            group, rows = [], 0
        group.append(file)
        rows += file.file.record_count
    if len(group) > 1:
        yield group


def _rewrite_group(table: Table, files: Sequence[LiveFile]) -> list[DataFile]:
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    rows = scan.to_table([FileScanTask(f.file) for f in files])
    return list(write_files(table, rows.sort_by([(TRADE_TIME_COLUMN, "ascending")])))


def _has_deletes(table: Table) -> bool:
    snapshot = table.current_snapshot()
    return snapshot is not None and any(
        m.content != ManifestContent.DATA for m in snapshot.manifests(table.io)
    )
