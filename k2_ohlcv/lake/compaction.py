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

from k2_ohlcv.domain.retention import SMALL_FILE
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.window import Interval
from k2_ohlcv.lake.appends import FILE_ROWS, write
from k2_ohlcv.lake.commit import Change, commit
from k2_ohlcv.lake.files import TIME, LiveFile, live_files, partition_of
from k2_ohlcv.lake.retry import CONFLICTS

#: Partitions of one commit: few enough that little is lost with a race, many enough to make few snapshots.
_LOT = 16

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Compacted:
    """What compaction did.

    Attributes:
        partitions: how many were rewritten.
        before: how many files went.
        after: how many came instead.
    """

    partitions: int = 0
    before: int = 0
    after: int = 0

    def __add__(self, other: "Compacted") -> "Compacted":
        return Compacted(
            self.partitions + other.partitions,
            self.before + other.before,
            self.after + other.after,
        )


def compact(
    load: Callable[[], Table],
    partitions: Sequence[Interval],
    protected: Callable[[Table], Collection[int]] = lambda _: (),
) -> Compacted:
    """Rewrite the small files of some partitions of trades, sorted by time, as few as memory allows.

    A lot that loses a race is left as it is: the writer who won may be about to write there again.

    Args:
        load: loads the trades table, as the catalog has it now.
        partitions: which ones.
        protected: snapshots that the commits may not expire.
    """
    done = Compacted()
    for first in range(0, len(partitions), _LOT):
        lot = partitions[first : first + _LOT]
        table = load()
        if _has_deletes(table):
            _log.info("compaction leaves tables with row-level deletes to those who make them")
            return done
        change = _change(table, lot)
        if change is None:
            continue
        # Asked after the rewriting, which takes its time: tags may have come meanwhile.
        change = replace(change, protected=frozenset(protected(load())))
        try:
            commit(table, change)
        except CONFLICTS as conflict:
            _log.warning("conflict", table=table.name()[-1], partitions=len(lot), error=str(conflict))
        else:
            done += Compacted(len(lot), len(change.removed), len(change.files))
    return done


def _change(table: Table, partitions: Sequence[Interval]) -> Change | None:
    chosen = set(partitions)
    files = live_files(table, table.metadata.current_snapshot_id)
    small = [f for f in files if f.file.file_size_in_bytes < SMALL_FILE]
    gone: list[DataFile] = []
    come: list[DataFile] = []
    for partition in sorted(chosen):
        for group in _groups([f for f in small if partition_of(f.file, Grain.DAY) == partition]):
            gone += [f.file for f in group]
            come += _rewritten(table, group)
    if not gone:
        return None
    rows, written = sum(f.record_count for f in gone), sum(f.record_count for f in come)
    assert rows == written, f"compaction read {rows} rows and wrote {written}"
    return Change(
        removed=tuple(gone),
        files=tuple(come),
        operation=Operation.REPLACE,
    )


def _groups(files: Sequence[LiveFile]) -> Iterator[list[LiveFile]]:
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


def _rewritten(table: Table, files: Sequence[LiveFile]) -> list[DataFile]:
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    rows = scan.to_table([FileScanTask(f.file) for f in files])
    return list(write(table, rows.sort_by([(TIME, "ascending")])))


def _has_deletes(table: Table) -> bool:
    snapshot = table.current_snapshot()
    return snapshot is not None and any(
        m.content != ManifestContent.DATA for m in snapshot.manifests(table.io)
    )
