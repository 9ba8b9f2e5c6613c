"""Deletes wrong trades, and has the rules of all corrections. Replacing trades is in `replace_trades`.

Each correction is one snapshot of the trades table. Removed rows are recorded in `rejected_trades` before
that commit. A crash between the two therefore loses no record, and a repeated record changes nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import LAST_MOMENT, Interval, from_micros, to_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake import rejected
from k2_ohlcv.lake.candidate_files import CandidateFiles, current_data_files, files_of_market, scan_tasks
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.dedupe import Int64s, Mask
from k2_ohlcv.lake.external_trades import find_time_column
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE, read_bound
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN
from k2_ohlcv.lake.metadata.pending_changes import reject_missing_trades
from k2_ohlcv.lake.replace_rows import RowsToRemove, commit_correction, read_removed_rows, read_rows
from k2_ohlcv.lake.retry import retry_conflicts
from k2_ohlcv.operations.correction_report import CorrectionReport, raw_text
from k2_ohlcv.sources.staging.rejected_buffer import REJECTED_BUFFER_SCHEMA

#: The default reason in `rejected_trades` for a deleted trade.
DELETED_REASON = "deleted: removed by k2-ohlcv trades delete"
#: Key in a snapshot's summary: the command that made the snapshot.
COMMAND_KEY = "k2.correction"
_RECORD_ROWS = 250_000

Market = tuple[str, str]


@dataclass(frozen=True)
class Selection:
    """The trades to delete. A trade is selected if it meets all conditions.

    Attributes:
        market: exchange and symbol; None selects all markets.
        interval: the time of the trades; None selects all times.
        ids: trade ids of the market; empty selects all ids.
    """

    market: Market | None = None
    interval: Interval | None = None
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.market is None and self.interval is None and not self.ids:
            raise UsageError("no trades are selected: give --exchange and --symbol, --from and --to, or --id")
        if self.ids and self.market is None:
            raise UsageError(
                "a trade id is unique in its market only: give --exchange and --symbol with --id"
            )

    def tasks(self, table: Table) -> list[FileScanTask]:
        """Find the data files that may have selected trades."""
        if self.ids and self.market:
            size = len(self.ids)
            rows = pa.table(
                {
                    "market": pa.array(np.zeros(size, np.int32)),
                    "trade_id": pa.array(self.ids, pa.string()),
                    TRADE_TIME_COLUMN: pa.nulls(size, pa.timestamp("us", "UTC")),
                }
            )
            return CandidateFiles(rows, [self.market], np.zeros(size, bool)).scan_tasks(table)
        files = current_data_files(table)
        if self.interval is not None:
            files = [f for f in files if _may_overlap(table, f.file, self.interval)]
        paths = files_of_market(table, files, self.market) if self.market else {f.path for f in files}
        return scan_tasks(table, paths)

    def positions(self, rows: pa.Table) -> Int64s:
        """Return the positions of the selected trades in some rows."""
        is_selected: Mask = np.ones(rows.num_rows, bool)
        if self.market is not None:
            is_selected &= is_in_market(rows, self.market)
        if self.interval is not None:
            moments = rows[TRADE_TIME_COLUMN].cast(pa.int64()).to_numpy()
            first, last = _first_and_last(self.interval)
            is_selected &= (moments >= first) & (moments <= last)
        if self.ids:
            is_selected &= pc.is_in(rows["trade_id"], pa.array(self.ids, rows["trade_id"].type)).to_numpy()
        return np.flatnonzero(is_selected)


def _may_overlap(table: Table, file: DataFile, interval: Interval) -> bool:
    """Whether a data file may have rows in an interval. The interval may include impossible trade times."""
    bounds = find_time_column(table, TRADE_TIME_COLUMN).file_bounds(file)
    first, last = _first_and_last(interval)
    return bounds is None or (bounds[0] <= last and bounds[1] >= first)


def _first_and_last(interval: Interval) -> tuple[int, int]:
    """Return the first and the last microsecond. An interval up to `LAST_MOMENT` includes this moment."""
    end = to_micros(interval.end)
    return to_micros(interval.start), end if interval.end == LAST_MOMENT else end - 1


def is_in_market(rows: pa.Table, market: Market) -> Mask:
    """Return a mask of the rows of a market."""
    is_equal = pc.and_(pc.equal(rows["exchange"], market[0]), pc.equal(rows["symbol"], market[1]))
    mask: Mask = is_equal.to_numpy()
    return mask


def delete_trades(
    lake: Lake, chosen: Selection, *, reason: str = DELETED_REASON, apply: bool
) -> CorrectionReport:
    """Delete trades from the table, and record each trade in `rejected_trades` with the reason.

    Args:
        lake: the lake.
        chosen: the trades to delete.
        reason: the reason to record.
        apply: change the table. Otherwise the function only reports the changes.

    Raises:
        UsageError: the trades are external or before `frozen_before`.
        MissingTradesError: candles exist, but there is no trades table.
        CommitConflictError: other writers won every attempt.
    """
    reject_uncorrectable_trades(lake)
    now = datetime.now(UTC)

    def attempt(table: Table) -> CorrectionReport:
        report, cuts = CorrectionReport(apply), []
        for task in chosen.tasks(table):
            rows = read_rows(table, task)
            positions = chosen.positions(rows)
            if len(positions):
                removed = rows.take(pa.array(positions))
                reject_frozen_trades(table, pc.min(removed[TRADE_TIME_COLUMN]).as_py())
                report.count_removed(removed)
                cuts.append(RowsToRemove(task, positions))
        report.files = len(cuts)
        if apply and cuts:
            record_rejected(lake, table, cuts, command="trades delete", reason=reason, now=now)
            after = commit_correction(lake, table, cuts, iter(()), {COMMAND_KEY: "trades delete"})
            report.snapshot = after.metadata.current_snapshot_id
        return report

    return retry_conflicts(lake.trades, attempt, purpose="to correct trades")


def reject_uncorrectable_trades(lake: Lake) -> None:
    """Refuse to correct external or missing trades, in dry runs too.

    Raises:
        UsageError: the trades table is external.
        MissingTradesError: candles exist, but the trades table is missing or has never had trades.
    """
    lake.reject_external_trades()
    trades = lake.trades()
    if trades.metadata.current_snapshot_id is None:
        for timeframe in TIMEFRAMES:
            reject_missing_trades(lake.candles(timeframe), trades)


def reject_frozen_trades(table: Table, first: datetime) -> None:
    """Refuse to correct trades before `frozen_before`.

    Raises:
        UsageError: the first trade to correct is before `frozen_before`.
    """
    frozen_before = read_bound(table, FROZEN_BEFORE)
    if frozen_before is not None and first < frozen_before:
        raise UsageError(
            f"the trade of {first.isoformat()} is before {frozen_before.isoformat()} ({FROZEN_BEFORE} of "
            f"{'.'.join(table.name())}). Trades before that time have expired, and candles are the only "
            "record. Nothing was changed. Choose trades after that time"
        )


def record_rejected(
    lake: Lake, table: Table, cuts: Sequence[RowsToRemove], *, command: str, reason: str, now: datetime
) -> None:
    """Record trades in `rejected_trades` before their removal, in bounded batches."""
    for rows in read_removed_rows(table, cuts):
        for first in range(0, rows.num_rows, _RECORD_ROWS):
            rejected.append_rejected(
                lake, _as_rejected(rows.slice(first, _RECORD_ROWS), command, reason), now
            )


def _as_rejected(rows: pa.Table, command: str, reason: str) -> pa.Table:
    """Convert trades to the columns of `rejected_trades`."""
    counts: Counter[tuple[str, str]] = Counter()
    rejected_rows = []
    for row in rows.to_pylist():
        # The source includes the market: two markets may have the same id, time, price and quantity.
        source, raw = f"k2-ohlcv {command} {row['exchange']}/{row['symbol']}", raw_text(row)
        counts[source, raw] += 1  # equal rows get different line numbers
        rejected_rows.append(
            {
                "source": source,
                "line": counts[source, raw],
                "reason": reason,
                "raw": raw,
                "exchange": row["exchange"],
                "symbol": row["symbol"],
            }
        )
    return pa.Table.from_pylist(rejected_rows, schema=REJECTED_BUFFER_SCHEMA)


def span_between(first: int, last: int) -> Interval:
    """Return the interval from the first to the last microsecond, both included."""
    return Interval(from_micros(first), from_micros(last + 1))
