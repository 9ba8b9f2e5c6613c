"""Corrections of trades: removing bad ones. Making a market's span equal to a file is in `replace_trades`.

Each is one snapshot of the trades table. The rows that go are recorded in rejected_trades before that commit,
so that a crash in between loses no record; recording them twice adds nothing.
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

#: Why a trade was removed, where nothing is said.
DELETED_REASON = "deleted: removed by k2-ohlcv trades delete"
#: In a snapshot's summary: which command made it.
COMMAND_KEY = "k2.correction"
_RECORD_ROWS = 250_000

Market = tuple[str, str]


@dataclass(frozen=True)
class Selection:
    """Which trades to remove: those to which everything that is said applies.

    Attributes:
        market: exchange and symbol; None is any.
        interval: their times; None is any.
        ids: their ids, which are a market's; empty is any.
    """

    market: Market | None = None
    interval: Interval | None = None
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.market is None and self.interval is None and not self.ids:
            raise UsageError(
                "nothing says which trades to delete: give --exchange and --symbol, --from and --to, or --id"
            )
        if self.ids and self.market is None:
            raise UsageError("an id is unique in its market only: give --exchange and --symbol with --id")

    def tasks(self, table: Table) -> list[FileScanTask]:
        """The data files that may hold such trades."""
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
        live = current_data_files(table)
        if self.interval is not None:
            live = [f for f in live if _may_hold(table, f.file, self.interval)]
        paths = files_of_market(table, live, self.market) if self.market else {f.path for f in live}
        return scan_tasks(table, paths)

    def positions(self, rows: pa.Table) -> Int64s:
        """Which of some rows are such trades."""
        chosen: Mask = np.ones(rows.num_rows, bool)
        if self.market is not None:
            chosen &= is_in_market(rows, self.market)
        if self.interval is not None:
            moments = rows[TRADE_TIME_COLUMN].cast(pa.int64()).to_numpy()
            first, last = _first_and_last(self.interval)
            chosen &= (moments >= first) & (moments <= last)
        if self.ids:
            chosen &= pc.is_in(rows["trade_id"], pa.array(self.ids, rows["trade_id"].type)).to_numpy()
        return np.flatnonzero(chosen)


def _may_hold(table: Table, file: DataFile, interval: Interval) -> bool:
    """Whether rows of a data file may lie in an interval, at impossible times too."""
    bounds, (first, last) = (
        find_time_column(table, TRADE_TIME_COLUMN).file_bounds(file),
        _first_and_last(interval),
    )
    return bounds is None or (bounds[0] <= last and bounds[1] >= first)


def _first_and_last(interval: Interval) -> tuple[int, int]:
    """The first and the last microsecond. An interval up to the last moment that there is includes it."""
    end = to_micros(interval.end)
    return to_micros(interval.start), end if interval.end == LAST_MOMENT else end - 1


def is_in_market(rows: pa.Table, market: Market) -> Mask:
    """Which rows are of a market."""
    same = pc.and_(pc.equal(rows["exchange"], market[0]), pc.equal(rows["symbol"], market[1]))
    mask: Mask = same.to_numpy()
    return mask


def delete_trades(
    lake: Lake, chosen: Selection, *, reason: str = DELETED_REASON, apply: bool
) -> CorrectionReport:
    """Remove trades from the table, each recorded in rejected_trades with the reason.

    Args:
        lake: the lake.
        chosen: which ones.
        reason: why, as it is recorded.
        apply: do it; else only say what would go.

    Raises:
        UsageError: the trades are someone else's, or behind the frozen line.
        MissingTradesError: there are candles, and no trades table.
        CommitConflictError: others committed first, each time.
    """
    reject_uncorrectable_trades(lake)
    now = datetime.now(UTC)

    def work(table: Table) -> CorrectionReport:
        report, cuts = CorrectionReport(apply), []
        for task in chosen.tasks(table):
            rows = read_rows(table, task)
            positions = chosen.positions(rows)
            if len(positions):
                going = rows.take(pa.array(positions))
                reject_frozen_trades(table, pc.min(going[TRADE_TIME_COLUMN]).as_py())
                report.count_removed(going)
                cuts.append(RowsToRemove(task, positions))
        report.files = len(cuts)
        if apply and cuts:
            record_rejected(lake, table, cuts, command="trades delete", reason=reason, now=now)
            after = commit_correction(lake, table, cuts, iter(()), {COMMAND_KEY: "trades delete"})
            report.snapshot = after.metadata.current_snapshot_id
        return report

    return retry_conflicts(lake.trades, work, purpose="to correct trades")


def reject_uncorrectable_trades(lake: Lake) -> None:
    """Refuse to correct someone else's trades, or trades that are missing. That holds for dry runs as well.

    Raises:
        UsageError: the lake reads someone else's trades.
        MissingTradesError: there are candles, and the trades table is missing or has never had trades.
    """
    lake.reject_external_trades()
    trades = lake.trades()
    if trades.metadata.current_snapshot_id is None:
        for each in TIMEFRAMES:
            reject_missing_trades(lake.candles(each), trades)


def reject_frozen_trades(table: Table, first: datetime) -> None:
    """Trades before the frozen line are not corrected.

    Raises:
        UsageError: the first trade to correct is before the line.
    """
    line = read_bound(table, FROZEN_BEFORE)
    if line is not None and first < line:
        raise UsageError(
            f"the trade of {first.isoformat()} is before {line.isoformat()} ({FROZEN_BEFORE} of "
            f"{'.'.join(table.name())}): trades before that have expired, and candles are the only record. "
            "Nothing was changed. Choose trades after that line"
        )


def record_rejected(
    lake: Lake, table: Table, cuts: Sequence[RowsToRemove], *, command: str, reason: str, now: datetime
) -> None:
    """Keep trades that are about to go in rejected_trades, in bounded batches."""
    for rows in read_removed_rows(table, cuts):
        for first in range(0, rows.num_rows, _RECORD_ROWS):
            refused = _as_rejected(rows.slice(first, _RECORD_ROWS), command, reason)
            rejected.append_rejected(lake, refused, now)


def _as_rejected(rows: pa.Table, command: str, reason: str) -> pa.Table:
    # The market stands in the source too: two markets may have the same id, time, price and quantity.
    lines: Counter[tuple[str, str]] = Counter()
    refused = []
    for row in rows.to_pylist():
        source, raw = f"k2-ohlcv {command} {row['exchange']}/{row['symbol']}", raw_text(row)
        lines[source, raw] += 1  # equal rows are told apart by their number
        refused.append(
            {
                "source": source,
                "line": lines[source, raw],
                "reason": reason,
                "raw": raw,
                "exchange": row["exchange"],
                "symbol": row["symbol"],
            }
        )
    return pa.Table.from_pylist(refused, schema=REJECTED_BUFFER_SCHEMA)


def span_between(first: int, last: int) -> Interval:
    """Whole microseconds from the first to the last, both included."""
    return Interval(from_micros(first), from_micros(last + 1))
