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

from k2_ohlcv.correction_report import CorrectionReport
from k2_ohlcv.corrections import BY, in_market, record, refuse_frozen, refuse_impossible, span_of
from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.domain.window import from_micros, to_micros
from k2_ohlcv.file_trades import FileTrades
from k2_ohlcv.ingest import BATCH_ROWS, Intake
from k2_ohlcv.lake import rejected
from k2_ohlcv.lake.candidates import data_files_of, files_of_market, tasks_of
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.corrections import Cut, commit_correction, read_rows
from k2_ohlcv.lake.dedupe import Incoming, Int64s, Mask, equal_values, stored_alike
from k2_ohlcv.lake.files import TIME, live_span
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.lake.trades import stored_form
from k2_ohlcv.sources.landing import read
from k2_ohlcv.sources.refusals import Refusals
from k2_ohlcv.sources.scratch import scratch
from k2_ohlcv.sources.spool import Spool

#: Why a stored trade went, where nothing is said.
REPLACED = "replaced: the file that k2-ohlcv trades replace was given has it otherwise, or not at all"
_SHOWN = 3


def replace_trades(
    lake: Lake,
    path: Path,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    format: str = "auto",  # noqa: A002 - as the option of the command line is called
    landing: Path | None = None,
    workspace: Path,
    reason: str = REPLACED,
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
    refuse_impossible(lake)
    now = datetime.now(UTC)
    with scratch(workspace) as folder:
        intake = Intake(Spool(folder), Refusals(folder), None)
        for batch in read(path, exchange=exchange, symbol=symbol, format=format, landing=landing, now=now):
            intake.take(batch, 0, str(path))
        given = FileTrades.of(path, intake, batch_rows)
        if given.refused and not skip_rejected:
            raise BadFileError(
                f"{path}: {given.refused:,} rows cannot be trades, or have the id of an earlier row. The "
                "trades that they stand for would go. Nothing was changed. See to the file or, where those "
                "rows are no trades, give --skip-rejected"
            )

        def work(table: Table) -> CorrectionReport:
            plan = _Plan(table, given)
            report = plan.report(apply)
            if apply and (plan.cuts or report.added):
                for refused in given.refusals.batches():
                    rejected.append(lake, refused, now)
                record(lake, table, plan.cuts, command="trades replace", reason=reason, now=now)
                after = commit_correction(lake, table, plan.cuts, plan.added(now), {BY: "trades replace"})
                report.snapshot = after.metadata.current_snapshot_id
            return report

        load = lake.trades_to_write if apply else lake.trades
        return retry_conflicts(load, work, purpose="to correct trades")


class _Plan:
    """What goes from a loaded table, and what comes."""

    def __init__(self, table: Table, given: FileTrades) -> None:
        """Compare the file with the table, range by range and data file by data file."""
        refuse_frozen(table, from_micros(given.first))
        self._given = given
        self._table = table
        self._going: dict[str, list[Int64s]] = {}
        self._new: list[npt.NDArray[np.uint8]] = []
        self._counts = CorrectionReport(applied=False, rejected=given.refused)
        span = span_of(given.first, given.last)
        live = [f for f in data_files_of(table) if f.span.intersect(span)]
        self._tasks = tasks_of(table, files_of_market(table, live, given.market))
        for start, end in given.ranges:
            self._compare(start, end)
        self.cuts = [
            Cut(task, np.sort(np.concatenate(self._going[task.file.file_path])))
            for task in self._tasks
            if task.file.file_path in self._going
        ]

    def report(self, applied: bool) -> CorrectionReport:
        """What would change."""
        self._counts.applied = applied
        self._counts.files = len(self.cuts)
        return self._counts

    def added(self, ingested_at: datetime) -> Iterator[pa.Table]:
        """The trades that come, in the table's columns, range by range."""
        for (start, end), bits in zip(self._given.ranges, self._new, strict=True):
            incoming = self._given.trades(start, end)
            new = np.unpackbits(bits, count=incoming.rows.num_rows).astype(bool)
            if new.any():
                yield stored_form(incoming, new, ingested_at)

    def _compare(self, start: int, end: int) -> None:
        incoming = self._given.trades(start, end)
        taken = np.zeros(incoming.rows.num_rows, bool)
        for task in self._tasks:
            span = live_span(self._table, task.file)
            if to_micros(span.start) < end and to_micros(span.end) > start:
                self._compare_file(task, incoming, taken, start, end)
        self._refuse_stored_outside(incoming, ~taken)
        self._new.append(np.packbits(~taken))
        self._counts.unchanged += int(taken.sum())
        self._counts.count_added(stored_form(incoming, ~taken, datetime.now(UTC)))

    def _compare_file(
        self, task: FileScanTask, incoming: Incoming, taken: Mask, start: int, end: int
    ) -> None:
        stored = read_rows(self._table, task)
        moments = stored[TIME].cast(pa.int64()).to_numpy()
        inside = np.flatnonzero(in_market(stored, self._given.market) & (moments >= start) & (moments < end))
        part = stored.take(pa.array(inside))
        stays = _paired(incoming.rows, part, taken)
        going = inside[~stays]
        if len(going):
            self._going.setdefault(task.file.file_path, []).append(going)
            self._counts.count_removed(stored.take(pa.array(going)))

    def _refuse_stored_outside(self, incoming: Incoming, new: Mask) -> None:
        """A trade that comes must not be stored at a time that the file does not speak of."""
        at = np.flatnonzero(new)
        if not len(at):
            return
        rows = incoming.rows.take(pa.array(at))
        daily = None if incoming.daily is None else incoming.daily[at]
        coming = Incoming(rows, incoming.markets, incoming.made[at], np.arange(len(at)), daily)
        for piece, _, found in stored_alike(self._table, coming):
            moments = piece[TIME].cast(pa.int64()).to_numpy()[found]
            outside = found[(moments < self._given.first) | (moments > self._given.last)]
            if len(outside):
                ids = piece["trade_id"].take(pa.array(outside[:_SHOWN])).to_pylist()
                raise UsageError(
                    f"ids of the file are stored at times outside of its span, {len(outside):,} or more of "
                    f"them ({', '.join(ids)}). Nothing was changed. If the file is right, remove those "
                    "first: k2-ohlcv trades delete with --exchange, --symbol and --id"
                )


def _paired(given: pa.Table, stored: pa.Table, taken: Mask) -> Mask:
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
    equal = equal_values(given, rows, stored, at) & ~taken[rows]
    rows, first = np.unique(rows[equal], return_index=True)
    stays[at[equal][first]] = True
    taken[rows] = True
    return stays
