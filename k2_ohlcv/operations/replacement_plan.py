"""Compares a file with the trades table: the stored rows to remove, and the trades to add.

Stored trades of the file's span that the file does not have are removed. Trades of the file that are not
stored are added. Equal trades are unchanged. Committing the difference is in `replace_trades`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import from_micros, to_micros
from k2_ohlcv.lake.candidate_files import current_data_files, files_of_market, scan_tasks
from k2_ohlcv.lake.dedupe import Int64s, Mask, TradeBatch, has_equal_values, read_candidate_rows
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, file_time_span
from k2_ohlcv.lake.replace_rows import RowsToRemove, read_rows
from k2_ohlcv.lake.trades import to_stored_rows
from k2_ohlcv.operations.correction_report import CorrectionReport
from k2_ohlcv.operations.delete_trades import (
    is_in_market,
    reject_frozen_trades,
    span_between,
)
from k2_ohlcv.operations.file_trades import FileTrades

_MAX_SAMPLE_ROWS = 3


class ReplacementPlan:
    """The trades to remove from a loaded table, and the trades to add.

    Attributes:
        cuts: the rows to remove, by data file.
    """

    def __init__(self, table: Table, file_trades: FileTrades) -> None:
        """Compare the file with the table, range by range and data file by data file."""
        reject_frozen_trades(table, from_micros(file_trades.first))
        self._file_trades = file_trades
        self._table = table
        self._removed_rows: dict[str, list[Int64s]] = {}
        self._new: list[npt.NDArray[np.uint8]] = []
        self._counts = CorrectionReport(applied=False, rejected=file_trades.rejected_count)
        span = span_between(file_trades.first, file_trades.last)
        files = [f for f in current_data_files(table) if f.span.intersect(span)]
        self._tasks = scan_tasks(table, files_of_market(table, files, file_trades.market))
        for start, end in file_trades.ranges:
            self._compare(start, end)
        self.cuts = [
            RowsToRemove(task, np.sort(np.concatenate(self._removed_rows[task.file.file_path])))
            for task in self._tasks
            if task.file.file_path in self._removed_rows
        ]

    def report(self, applied: bool) -> CorrectionReport:
        """Return the counts of removed, added and unchanged trades."""
        self._counts.applied = applied
        self._counts.files = len(self.cuts)
        return self._counts

    def added(self, ingested_at: datetime) -> Iterator[pa.Table]:
        """Yield the trades to add, in the table's columns, range by range."""
        for (start, end), bits in zip(self._file_trades.ranges, self._new, strict=True):
            incoming = self._file_trades.trades(start, end)
            new = np.unpackbits(bits, count=incoming.rows.num_rows).astype(bool)
            if new.any():
                yield to_stored_rows(incoming, new, ingested_at)

    def _compare(self, start: int, end: int) -> None:
        """Compare a time range of the file with the table."""
        incoming = self._file_trades.trades(start, end)
        is_stored = np.zeros(incoming.rows.num_rows, bool)
        for task in self._tasks:
            span = file_time_span(self._table, task.file)
            if to_micros(span.start) < end and to_micros(span.end) > start:
                self._compare_file(task, incoming, is_stored, start, end)
        self._reject_stored_outside(incoming, ~is_stored)
        self._new.append(np.packbits(~is_stored))
        self._counts.unchanged += int(is_stored.sum())
        self._counts.count_added(to_stored_rows(incoming, ~is_stored, datetime.now(UTC)))

    def _compare_file(
        self, task: FileScanTask, incoming: TradeBatch, is_stored: Mask, start: int, end: int
    ) -> None:
        """Compare a time range of the file with one data file, and mark stored trades in `is_stored`."""
        stored = read_rows(self._table, task)
        moments = stored[TRADE_TIME_COLUMN].cast(pa.int64()).to_numpy()
        inside = np.flatnonzero(
            is_in_market(stored, self._file_trades.market) & (moments >= start) & (moments < end)
        )
        is_match = _match_rows(incoming.rows, stored.take(pa.array(inside)), is_stored)
        removed = inside[~is_match]
        if len(removed):
            self._removed_rows.setdefault(task.file.file_path, []).append(removed)
            self._counts.count_removed(stored.take(pa.array(removed)))

    def _reject_stored_outside(self, incoming: TradeBatch, new: Mask) -> None:
        """Raise an error if ids of new trades are stored at times outside of the file's span."""
        positions = np.flatnonzero(new)
        if not len(positions):
            return
        rows = incoming.rows.take(pa.array(positions))
        daily = None if incoming.has_daily_ids is None else incoming.has_daily_ids[positions]
        generated = incoming.generated_id[positions]
        new_trades = TradeBatch(rows, incoming.markets, generated, np.arange(len(positions)), daily)
        for stored, _, candidates in read_candidate_rows(self._table, new_trades):
            moments = stored[TRADE_TIME_COLUMN].cast(pa.int64()).to_numpy()[candidates]
            outside = candidates[(moments < self._file_trades.first) | (moments > self._file_trades.last)]
            if len(outside):
                ids = stored["trade_id"].take(pa.array(outside[:_MAX_SAMPLE_ROWS])).to_pylist()
                raise UsageError(
                    f"ids of the file are stored at times outside of its span, {len(outside):,} or more of "
                    f"them ({', '.join(ids)}). Nothing was changed. If the file is right, first delete these "
                    "trades: k2-ohlcv trades delete with --exchange, --symbol and --id"
                )


def _match_rows(given: pa.Table, stored: pa.Table, is_stored: Mask) -> Mask:
    """Match stored rows with equal rows of the file. Each row of the file matches one stored row at most.

    Args:
        given: rows of the file.
        stored: stored rows of the same market.
        is_stored: the rows of the file that have a match already. New matches are marked here.

    Returns:
        A mask of the stored rows that have a match.
    """
    is_match = np.zeros(stored.num_rows, bool)
    left = pa.table({"trade_id": given["trade_id"], "row": np.arange(given.num_rows)})
    right = pa.table({"trade_id": stored["trade_id"].cast(pa.string()), "at": np.arange(stored.num_rows)})
    matches = left.join(right, "trade_id", join_type="inner")
    rows, stored_rows = matches["row"].to_numpy(), matches["at"].to_numpy()
    is_equal = has_equal_values(given, rows, stored, stored_rows) & ~is_stored[rows]
    rows, first = np.unique(rows[is_equal], return_index=True)
    is_match[stored_rows[is_equal][first]] = True
    is_stored[rows] = True
    return is_match
