"""Makes a market's trades equal to a file over the file's span, in one commit.

This is how a revised archive or a correction comes in. The span goes from the file's first trade to its last,
both included, to the microsecond. Stored trades of the market in the span that the file does not have go.
Trades of the file that are not stored come. Trades that are equal stay as they are. Where nothing differs,
nothing is committed.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.domain.intervals import from_micros, to_micros
from k2_ohlcv.lake import rejected
from k2_ohlcv.lake.candidate_files import current_data_files, files_of_market, scan_tasks
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.dedupe import Int64s, Mask, TradeBatch, has_equal_values, read_candidate_rows
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, file_time_span
from k2_ohlcv.lake.replace_rows import RowsToRemove, commit_correction, read_rows
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.lake.trades import to_stored_rows
from k2_ohlcv.operations.correction_report import CorrectionReport
from k2_ohlcv.operations.delete_trades import (
    COMMAND_KEY,
    is_in_market,
    record_rejected,
    reject_frozen_trades,
    reject_uncorrectable_trades,
    span_between,
)
from k2_ohlcv.operations.file_reader import FileReader
from k2_ohlcv.operations.file_trades import FileTrades
from k2_ohlcv.operations.ingest import BATCH_ROWS
from k2_ohlcv.sources.reader import read_file
from k2_ohlcv.sources.staging.rejected_buffer import RejectedBuffer
from k2_ohlcv.sources.staging.sort_buffer import SortBuffer
from k2_ohlcv.sources.staging.temp_folder import open_temp_folder

#: Why a stored trade went, where nothing is said.
REPLACED_REASON = "replaced: the file that k2-ohlcv trades replace was given has it otherwise, or not at all"
_MAX_SAMPLE_ROWS = 3


def replace_trades(
    lake: Lake,
    path: Path,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    format: str = "auto",  # noqa: A002 - as the option of the command line is called
    landing: Path | None = None,
    workspace: Path,
    reason: str = REPLACED_REASON,
    skip_rejected: bool = False,
    apply: bool,
    batch_rows: int = BATCH_ROWS,
) -> CorrectionReport:
    """Make one market's trades equal to a file, over the file's span.

    Args:
        lake: the lake.
        path: the file, of any format that `ingest` takes, with the trades of one market.
        exchange: the exchange, before columns and paths.
        symbol: the symbol, likewise.
        format: `auto`, or the file's format.
        landing: the landing folder, for paths `<EXCHANGE>/<SYMBOL>/…` in it.
        workspace: a folder for temporary files, about as large as the unpacked file.
        reason: why stored trades go, as it is recorded in rejected_trades.
        skip_rejected: leave out the file's rows that cannot be trades, and record them; else the file is
            refused.
        apply: do it; else only say what would change.
        batch_rows: the file's rows that are compared at once.

    Raises:
        BadFileError: the file cannot be read as a whole, has no trades, or has rows that cannot be trades.
        UsageError: the file has several markets, or the trades are someone else's or behind the frozen line.
        MissingTradesError: there are candles, and no trades table.
        CommitConflictError: others committed first, each time.
    """
    reject_uncorrectable_trades(lake)
    now = datetime.now(UTC)
    with open_temp_folder(workspace) as folder:
        intake = FileReader(SortBuffer(folder), RejectedBuffer(folder), None)
        for batch in read_file(
            path, exchange=exchange, symbol=symbol, format=format, landing=landing, now=now
        ):
            intake.add_batch(batch, 0, str(path))
        given = FileTrades.read_file(path, intake, batch_rows)
        if given.rejected_count and not skip_rejected:
            raise BadFileError(
                f"{path}: {given.rejected_count:,} rows cannot be trades, or have the id of an "
                "earlier row. The "
                "trades that they stand for would go. Nothing was changed. See to the file or, where those "
                "rows are no trades, give --skip-rejected"
            )

        def work(table: Table) -> CorrectionReport:
            plan = _ReplacementPlan(table, given)
            report = plan.report(apply)
            if apply and (plan.cuts or report.added):
                for refused in given.rejected.read_batches():
                    rejected.append_rejected(lake, refused, now)
                record_rejected(lake, table, plan.cuts, command="trades replace", reason=reason, now=now)
                after = commit_correction(
                    lake, table, plan.cuts, plan.added(now), {COMMAND_KEY: "trades replace"}
                )
                report.snapshot = after.metadata.current_snapshot_id
            return report

        load = lake.writable_trades if apply else lake.trades
        return retry_conflicts(load, work, purpose="to correct trades")


class _ReplacementPlan:
    """What goes from a loaded table, and what comes."""

    def __init__(self, table: Table, given: FileTrades) -> None:
        """Compare the file with the table, range by range and data file by data file."""
        reject_frozen_trades(table, from_micros(given.first))
        self._file_trades = given
        self._table = table
        self._removed_rows: dict[str, list[Int64s]] = {}
        self._new: list[npt.NDArray[np.uint8]] = []
        self._counts = CorrectionReport(applied=False, rejected=given.rejected_count)
        span = span_between(given.first, given.last)
        live = [f for f in current_data_files(table) if f.span.intersect(span)]
        self._tasks = scan_tasks(table, files_of_market(table, live, given.market))
        for start, end in given.ranges:
            self._compare(start, end)
        self.cuts = [
            RowsToRemove(task, np.sort(np.concatenate(self._removed_rows[task.file.file_path])))
            for task in self._tasks
            if task.file.file_path in self._removed_rows
        ]

    def report(self, applied: bool) -> CorrectionReport:
        """What would change."""
        self._counts.applied = applied
        self._counts.files = len(self.cuts)
        return self._counts

    def added(self, ingested_at: datetime) -> Iterator[pa.Table]:
        """The trades that come, in the table's columns, range by range."""
        for (start, end), bits in zip(self._file_trades.ranges, self._new, strict=True):
            incoming = self._file_trades.trades(start, end)
            new = np.unpackbits(bits, count=incoming.rows.num_rows).astype(bool)
            if new.any():
                yield to_stored_rows(incoming, new, ingested_at)

    def _compare(self, start: int, end: int) -> None:
        incoming = self._file_trades.trades(start, end)
        taken = np.zeros(incoming.rows.num_rows, bool)
        for task in self._tasks:
            span = file_time_span(self._table, task.file)
            if to_micros(span.start) < end and to_micros(span.end) > start:
                self._compare_file(task, incoming, taken, start, end)
        self._reject_stored_outside(incoming, ~taken)
        self._new.append(np.packbits(~taken))
        self._counts.unchanged += int(taken.sum())
        self._counts.count_added(to_stored_rows(incoming, ~taken, datetime.now(UTC)))

    def _compare_file(
        self, task: FileScanTask, incoming: TradeBatch, taken: Mask, start: int, end: int
    ) -> None:
        stored = read_rows(self._table, task)
        moments = stored[TRADE_TIME_COLUMN].cast(pa.int64()).to_numpy()
        inside = np.flatnonzero(
            is_in_market(stored, self._file_trades.market) & (moments >= start) & (moments < end)
        )
        part = stored.take(pa.array(inside))
        stays = _matching_rows(incoming.rows, part, taken)
        going = inside[~stays]
        if len(going):
            self._removed_rows.setdefault(task.file.file_path, []).append(going)
            self._counts.count_removed(stored.take(pa.array(going)))

    def _reject_stored_outside(self, incoming: TradeBatch, new: Mask) -> None:
        """A trade that comes must not be stored at a time that the file does not speak of."""
        at = np.flatnonzero(new)
        if not len(at):
            return
        rows = incoming.rows.take(pa.array(at))
        daily = None if incoming.has_daily_ids is None else incoming.has_daily_ids[at]
        coming = TradeBatch(rows, incoming.markets, incoming.generated_id[at], np.arange(len(at)), daily)
        for piece, _, found in read_candidate_rows(self._table, coming):
            moments = piece[TRADE_TIME_COLUMN].cast(pa.int64()).to_numpy()[found]
            outside = found[(moments < self._file_trades.first) | (moments > self._file_trades.last)]
            if len(outside):
                ids = piece["trade_id"].take(pa.array(outside[:_MAX_SAMPLE_ROWS])).to_pylist()
                raise UsageError(
                    f"ids of the file are stored at times outside of its span, {len(outside):,} or more of "
                    f"them ({', '.join(ids)}). Nothing was changed. If the file is right, remove those "
                    "first: k2-ohlcv trades delete with --exchange, --symbol and --id"
                )


def _matching_rows(given: pa.Table, stored: pa.Table, taken: Mask) -> Mask:
    """Which stored rows the file has too, each row of the file counting once.

    Args:
        given: rows of the file.
        stored: stored rows of the same market.
        taken: rows of the file that have a stored one; those that get one here are marked.
    """
    stays = np.zeros(stored.num_rows, bool)
    left = pa.table({"trade_id": given["trade_id"], "row": np.arange(given.num_rows)})
    right = pa.table({"trade_id": stored["trade_id"].cast(pa.string()), "at": np.arange(stored.num_rows)})
    matches = left.join(right, "trade_id", join_type="inner")
    rows, at = matches["row"].to_numpy(), matches["at"].to_numpy()
    equal = has_equal_values(given, rows, stored, at) & ~taken[rows]
    rows, first = np.unique(rows[equal], return_index=True)
    stays[at[equal][first]] = True
    taken[rows] = True
    return stays
