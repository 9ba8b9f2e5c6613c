"""Compaction of trades: the small files of a partition become few, in commits that change no row.

Which partitions are worth it is decided in `domain.retention`; what such a commit means to refresh is in
`moves`.
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
from k2_ohlcv.lake.append import FILE_ROWS, write_files
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, LiveFile, file_partition, live_files
from k2_ohlcv.lake.retry import CONFLICT_ERRORS

#: Partitions of one commit: few enough that little is lost with a race, many enough to make few snapshots.
BATCH_SIZE = 16

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CompactionResult:
    """What compaction did.

    Attributes:
        partitions: how many were rewritten.
        before: how many files went.
        after: how many came instead.
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
    """Rewrite the small files of some partitions of trades, sorted by time, as few as memory allows.

    A lot that loses a race is left as it is: the writer who won may be about to write there again.

    Args:
        load: loads the trades table, as the catalog has it now.
        partitions: which ones.
        protected: snapshots that the commits may not expire.
    """
    done = CompactionResult()
    for first in range(0, len(partitions), BATCH_SIZE):
        lot = partitions[first : first + BATCH_SIZE]
        table = load()
        if _has_deletes(table):
            _log.info("compaction leaves tables with row-level deletes to those who make them")
            return done
        change = _build_commit(table, lot)
        if change is None:
            continue
        # Asked after the rewriting, which takes its time: tags may have come meanwhile.
        change = replace(change, protected=frozenset(protected(load())))
        try:
            commit_change(table, change)
        except CONFLICT_ERRORS as conflict:
            _log.warning("conflict", table=table.name()[-1], partitions=len(lot), error=str(conflict))
        else:
            done += CompactionResult(len(lot), len(change.removed_files), len(change.files))
    return done


def _build_commit(table: Table, partitions: Sequence[Interval]) -> TableCommit | None:
    chosen = set(partitions)
    files = live_files(table, table.metadata.current_snapshot_id)
    small = [f for f in files if f.file.file_size_in_bytes < SMALL_FILE_BYTES]
    gone: list[DataFile] = []
    come: list[DataFile] = []
    for partition in sorted(chosen):
        for group in _group_files([f for f in small if file_partition(f.file, Grain.DAY) == partition]):
            gone += [f.file for f in group]
            come += _rewrite_group(table, group)
    if not gone:
        return None
    rows, written = sum(f.record_count for f in gone), sum(f.record_count for f in come)
    assert rows == written, f"compaction read {rows} rows and wrote {written}"
    return TableCommit(
        removed_files=tuple(gone),
        files=tuple(come),
        operation=Operation.REPLACE,
    )


def _group_files(files: Sequence[LiveFile]) -> Iterator[list[LiveFile]]:
    """Files that become one, in the order of time; a file that none joins is left as it is."""
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
