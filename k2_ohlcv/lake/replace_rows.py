"""Takes trades out of the table and puts others in, in one commit.

A data file that holds a trade to remove is rewritten without that trade. The other rows of the
file stay. Memory holds one data file at a time. Which trades go and come is decided in
`k2_ohlcv.operations.delete_trades`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.lake.append import write_files
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change, remove_uncommitted_files
from k2_ohlcv.lake.dedupe import Int64s
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN
from k2_ohlcv.lake.trades import protected_snapshots


@dataclass(frozen=True)
class RowsToRemove:
    """The rows of a data file that go: their positions in the file as `read_rows` gives it, ascending."""

    task: FileScanTask
    positions: Int64s


def read_rows(table: Table, task: FileScanTask) -> pa.Table:
    """All live rows of a data file, in the order of the file."""
    return ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue()).to_table([task])


def read_removed_rows(table: Table, cuts: Sequence[RowsToRemove]) -> Iterator[pa.Table]:
    """The rows that go, data file by data file."""
    for cut in cuts:
        yield read_rows(table, cut.task).take(pa.array(cut.positions))


def commit_correction(
    lake: Lake,
    table: Table,
    cuts: Sequence[RowsToRemove],
    added: Iterator[pa.Table],
    summary: Mapping[str, str],
) -> Table:
    """Rewrite the files that are cut, write the trades that come, and commit both as one snapshot.

    Args:
        lake: the lake.
        table: the trades table, as the cuts were made in it.
        cuts: what goes.
        added: what comes, in the table's columns, sorted by time.
        summary: what the snapshot says of itself.

    Raises:
        CommitFailedException, ValidationException: the table moved since it was loaded. Nothing is committed,
            and the new data files are removed.
    """
    files: list[DataFile] = []
    try:
        for cut in cuts:
            files += _rewrite_file(table, cut)
        for rows in added:
            files += write_files(table, rows)
    except BaseException:
        remove_uncommitted_files(table, files)
        raise
    change = TableCommit(
        removed_files=tuple(cut.task.file for cut in cuts),
        files=tuple(files),
        summary=summary,
        # Asked after the rewriting, which takes its time: tags may have come meanwhile.
        protected=frozenset(protected_snapshots(lake, lake.writable_trades())),
    )
    return commit_change(table, change)


def _rewrite_file(table: Table, cut: RowsToRemove) -> list[DataFile]:
    rows = read_rows(table, cut.task)
    stays = np.ones(rows.num_rows, bool)
    stays[cut.positions] = False
    if not stays.any():
        return []
    return list(write_files(table, rows.filter(pa.array(stays)).sort_by([(TRADE_TIME_COLUMN, "ascending")])))
