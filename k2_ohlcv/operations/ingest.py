"""Ingestion: landing files into the trades table, exactly once.

First every file is read to its end into a spool on disk, so that a file that breaks off changes no table.
Then the spool goes in by contiguous batches of time, each one commit; a killed ingestion is finished by the
next one of the same files. Reading files is in `sources`, what is known already and how commits hold is in
`lake.trades`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import Interval, coalesce, from_micros, to_micros
from k2_ohlcv.lake import dedupe, rejected, trades
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.sources.reader import read_file
from k2_ohlcv.sources.rows import ParsedBatch
from k2_ohlcv.sources.staging.rejected_buffer import CONFLICT, TOO_LATE, RejectedBuffer, build_rejected_rows
from k2_ohlcv.sources.staging.sort_buffer import RUN_SCHEMA, SortBuffer, to_micros_array
from k2_ohlcv.sources.staging.temp_folder import open_temp_folder
from k2_ohlcv.sources.staging.trade_ids import BatchWithIds, assign_ids

#: Rows of one commit: a busy day of the largest markets, in some 600 MB while it is sorted and written.
BATCH_ROWS = 2_500_000

_DAY_MICROS = 86_400_000_000

#: Told what is done so far: `read_file` or `committed`, and the rows.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class IngestReport:
    """What an ingestion did; `read` is always the sum of the four that follow it.

    Attributes:
        read: rows of the files (of the chosen days, where there were any).
        added: new trades.
        duplicates: trades that were stored already, or came twice.
        conflicts: rows whose id is stored with other values; kept in `rejected_trades`.
        rejected: rows that cannot be a trade, or come too late for one; kept in `rejected_trades`.
        first: the time of the first trade read (UTC), None where there was none.
        last: the time of the last.
        snapshot: the current snapshot of the trades table afterwards, None where it has none.
        shared: rows whose ids were made and whose market and time were stored already, and how many such
            times: their ids depend on how the files were cut, so see that they are the same trades.
        per_day: trades added, by UTC day.
        unterminated: file -> the number of its last line, where that has no end of line and so may be cut.
    """

    read: int
    added: int
    duplicates: int
    conflicts: int
    rejected: int
    first: datetime | None
    last: datetime | None
    snapshot: int | None
    shared: tuple[int, int] = (0, 0)
    per_day: Mapping[date, int] = field(default_factory=dict)
    unterminated: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The report as one JSON object."""
        return {
            "read": self.read,
            "added": self.added,
            "known": self.duplicates,
            "conflicts": self.conflicts,
            "rejected": self.rejected,
            "first": self.first.isoformat() if self.first else None,
            "last": self.last.isoformat() if self.last else None,
            "snapshot": self.snapshot,
            "shared_timestamps": {"rows": self.shared[0], "timestamps": self.shared[1]},
        }


def ingest(
    lake: Lake,
    files: Sequence[Path],
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    format: str = "auto",  # noqa: A002 - as the option of the command line is called
    days: Sequence[Interval] | None = None,
    workspace: Path,
    landing: Path | None = None,
    progress: Progress | None = None,
    batch_rows: int = BATCH_ROWS,
) -> IngestReport:
    """Add the trades of landing files that the lake does not have.

    Args:
        lake: the lake.
        files: landing files, of one or of several formats and markets.
        exchange: the exchange of all of them, before columns and paths.
        symbol: the symbol of all of them, likewise.
        format: `auto`, or the one format of all of them.
        days: only rows in these intervals are taken, and counted. Rows whose time cannot be told always are.
        workspace: a folder for temporary files, about as large as the unpacked files.
        landing: the landing folder, for paths `<EXCHANGE>/<SYMBOL>/…` in it.
        progress: called now and then with `read_file` or `committed`, and the rows so far.
        batch_rows: the most rows that one commit takes, a single microsecond apart.

    Raises:
        BadFileError: a file cannot be read as a whole; no table has changed.
        UsageError: an unknown format, no files, nothing says what market a file is of, or the trades table
            is someone else's.
        CommitConflictError: others committed first, too often; what was committed is complete in itself.
    """
    if not files:
        raise UsageError("no files to ingest: name at least one")
    lake.reject_external_trades()  # before hours of reading: someone else's table is never written to
    tell = progress or (lambda *_: None)
    now = datetime.now(UTC)
    with open_temp_folder(workspace) as folder:
        intake = FileReader(
            SortBuffer(folder), RejectedBuffer(folder), None if days is None else coalesce(days)
        )
        for number, path in enumerate(files):
            for batch in read_file(
                path, exchange=exchange, symbol=symbol, format=format, landing=landing, now=now
            ):
                intake.add_batch(batch, number, str(path))
                tell("read", intake.read)
        sources = [str(path) for path in files]
        return _commit_batches(lake, intake, sources=sources, now=now, tell=tell, batch_rows=batch_rows)


class FileReader:
    """The rows of all files, on their way into the spool."""

    def __init__(self, spool: SortBuffer, refusals: RejectedBuffer, days: list[Interval] | None) -> None:
        self.sort_buffer = spool
        self.rejected_buffer = refusals
        self.markets: dict[tuple[str, str], int] = {}
        self.daily_files: set[int] = set()
        self.trades = 0
        self.rejected = 0
        self.first: int | None = None
        self.last: int | None = None
        self.unterminated: dict[str, int] = {}
        self._days = days

    @property
    def read(self) -> int:
        """Rows taken so far."""
        return self.trades + self.rejected

    def add_batch(self, batch: ParsedBatch, file: int, source: str) -> None:
        """Put a batch in, without what lies outside the chosen days."""
        rows, refused = self._rows_of_days(batch.trades), self._rows_of_days(batch.rejected)
        self.rejected += refused.num_rows
        self.rejected_buffer.add(refused, source)
        if batch.unterminated_line is not None:
            self.unterminated[source] = batch.unterminated_line
        if not rows.num_rows:
            return
        self.trades += rows.num_rows
        moments = to_micros_array(rows)
        self.first = min(int(moments.min()), self.first if self.first is not None else 2**63)
        self.last = max(int(moments.max()), self.last or 0)
        if batch.daily_ids:
            self.daily_files.add(file)
        constant = pa.array(np.full(rows.num_rows, file, np.int32))
        columns = [rows[name] for name in RUN_SCHEMA.names[2:]]
        self.sort_buffer.add(
            pa.Table.from_arrays([self._markets(rows), constant, *columns], schema=RUN_SCHEMA)
        )

    def _rows_of_days(self, rows: pa.Table) -> pa.Table:
        if self._days is None or not rows.num_rows:
            return rows
        moments = rows["timestamp"].cast(pa.int64()).fill_null(-1).to_numpy()
        inside = moments == -1  # a time that cannot be told is of no day, and must not pass unseen
        for day in self._days:
            inside |= (moments >= to_micros(day.start)) & (moments < to_micros(day.end))
        return rows if inside.all() else rows.filter(pa.array(inside))

    def _markets(self, rows: pa.Table) -> pa.Array:
        exchanges, symbols = rows["exchange"].combine_chunks(), rows["symbol"].combine_chunks()
        names = symbols.dictionary.to_pylist()
        width = len(names)
        codes = exchanges.indices.to_numpy().astype(np.int64) * width + symbols.indices.to_numpy()
        pairs, inverse = np.unique(codes, return_inverse=True)
        numbers = [
            self.markets.setdefault(
                (exchanges.dictionary[p // width].as_py(), names[p % width]), len(self.markets)
            )
            for p in pairs.tolist()
        ]
        return pa.array(np.array(numbers, np.int32)[inverse])


def _commit_batches(
    lake: Lake, intake: FileReader, *, sources: list[str], now: datetime, tell: Progress, batch_rows: int
) -> IngestReport:
    totals: Counter[str] = Counter()
    per_day: Counter[date] = Counter()
    markets, done = list(intake.markets), 0
    for span in intake.sort_buffer.split_ranges(batch_rows):
        batch = assign_ids(intake.sort_buffer.read(span.start, span.end), intake.daily_files)
        incoming = dedupe.TradeBatch(
            batch.rows, markets, batch.generated_id, batch.first_duplicate, batch.has_daily_ids
        )
        verdict = trades.append_trades(lake, incoming, now)
        for which, reason in ((verdict.conflict, CONFLICT), (verdict.too_late, TOO_LATE)):
            refused = build_rejected_rows(batch.rows, which, reason=reason, markets=markets, sources=sources)
            intake.rejected_buffer.add_rows(refused)
        _count_batch(totals, per_day, batch, verdict)
        done += span.rows
        tell("committed", done)
    for refused in intake.rejected_buffer.read_batches():
        rejected.append_rejected(lake, refused, now)
    return IngestReport(
        read=intake.read,
        added=totals["added"],
        duplicates=totals["known"],
        conflicts=totals["conflicts"],
        rejected=intake.rejected + totals["late"],
        first=None if intake.first is None else from_micros(intake.first),
        last=None if intake.last is None else from_micros(intake.last),
        snapshot=trades.current_snapshot_id(lake),
        shared=(totals["shared rows"], totals["shared times"]),
        per_day=dict(sorted(per_day.items())),
        unterminated=intake.unterminated,
    )


def _count_batch(
    totals: Counter[str], per_day: Counter[date], batch: BatchWithIds, verdict: dedupe.DedupeResult
) -> None:
    added, conflicting = int(verdict.new.sum()), int(verdict.conflict.sum())
    late = int(verdict.too_late.sum())
    totals["added"] += added
    totals["conflicts"] += conflicting
    totals["late"] += late
    totals["known"] += len(verdict.new) - added - conflicting - late
    moments = to_micros_array(batch.rows)
    days, counts = np.unique(moments[verdict.new] // _DAY_MICROS, return_counts=True)
    for day, count in zip(days.tolist(), counts.tolist(), strict=True):
        per_day[from_micros(day * _DAY_MICROS).date()] += count
    met = verdict.shared_timestamps | batch.shared_timestamps
    if met.any():
        markets = batch.rows["market"].to_numpy()
        totals["shared rows"] += int(met.sum())
        totals["shared times"] += len(np.unique(np.stack([markets[met], moments[met]]), axis=1).T)
