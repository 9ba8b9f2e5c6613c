"""Removes trades from the table and adds others, in one commit.

A data file that has a trade to remove is rewritten without that trade. The other rows of the file stay.
Memory use is bounded by one data file. The choice of trades is in `operations.delete_trades` and
`operations.replace_trades`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change, remove_uncommitted_files
from k2_ohlcv.lake.data_files import write_files
from k2_ohlcv.lake.dedupe import Int64s
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN
from k2_ohlcv.lake.trades import protected_snapshots


@dataclass(frozen=True)
class RowsToRemove:
    """The rows to remove from a data file, as ascending positions in the rows that `read_rows` returns."""

    task: FileScanTask
    positions: Int64s


def read_rows(table: Table, task: FileScanTask) -> pa.Table:
    """Read all live rows of a data file, in the order of the file."""
    return ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue()).to_table([task])


def read_removed_rows(table: Table, cuts: Sequence[RowsToRemove]) -> Iterator[pa.Table]:
    """Read the rows to remove, one data file at a time."""
    for cut in cuts:
        yield read_rows(table, cut.task).take(pa.array(cut.positions))


def commit_correction(
    lake: Lake,
    table: Table,
    cuts: Sequence[RowsToRemove],
    added: Iterator[pa.Table],
    summary: Mapping[str, str],
) -> Table:
    """Rewrite the files of removed rows, write the added trades, and commit both as one snapshot.

    Args:
        lake: the lake.
        table: the loaded version of the trades table in which the rows to remove were found.
        cuts: the rows to remove, by data file.
        added: the trades to add, in the table's columns, sorted by time.
        summary: entries of the snapshot's summary.

    Raises:
        CommitFailedException, ValidationException: another writer committed since the table was loaded.
            Nothing is committed, and the new data files are removed.
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
        # Rewriting takes time. A tag may have been created meanwhile, so the table is loaded again.
        protected=frozenset(protected_snapshots(lake, lake.writable_trades())),
    )
    return commit_change(table, change)


def _rewrite_file(table: Table, cut: RowsToRemove) -> list[DataFile]:
    rows = read_rows(table, cut.task)
    is_retained = np.ones(rows.num_rows, bool)
    is_retained[cut.positions] = False
    if not is_retained.any():
        return []
    retained = rows.filter(pa.array(is_retained))
    return list(write_files(table, retained.sort_by([(TRADE_TIME_COLUMN, "ascending")])))
