"""Ingestion: adds the trades of landing files to the trades table, each trade exactly once.

Ingestion first reads every file to its end, into a sort buffer on disk. A truncated file therefore changes no
table. Ingestion then commits the trades in batches, in order of time. After a crash, ingest the same files
again to complete the rest. Parsing files is in `sources`, finding duplicates in `lake.dedupe`, committing in
`lake.trades`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import numpy as np

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.domain.intervals import Interval, from_micros
from k2_ohlcv.lake import dedupe, rejected, trades
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.file_reader import FileReader
from k2_ohlcv.sources.reader import read_file
from k2_ohlcv.sources.rows import ParsedBatch
from k2_ohlcv.sources.staging.rejected_buffer import CONFLICT, TOO_LATE, RejectedBuffer, build_rejected_rows
from k2_ohlcv.sources.staging.sort_buffer import SortBuffer, to_micros_array
from k2_ohlcv.sources.staging.temp_folder import open_temp_folder
from k2_ohlcv.sources.staging.trade_ids import BatchWithIds, assign_ids

#: Rows of one commit: a busy day of the largest markets. Sorting and writing takes about 600 MB of memory.
BATCH_ROWS = 2_500_000

_DAY_MICROS = 86_400_000_000

#: A function that receives progress: `read` or `committed`, and the number of rows so far.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class IngestReport:
    """The result of an ingestion. `read` is the sum of added, duplicates, conflicts and rejected.

    Attributes:
        read: rows of the files, within the chosen days.
        added: new trades.
        duplicates: trades that are already stored, or repeated in the files.
        conflicts: rows whose trade id is stored with other values. `rejected_trades` keeps these rows.
        rejected: rows that are no valid trade, or are before `frozen_before`. `rejected_trades` keeps them.
        first: the UTC time of the first trade read; None without trades.
        last: the UTC time of the last trade read.
        snapshot: the current snapshot of the trades table afterwards; None without one.
        shared: two counts about trades with generated ids, whose market and time were already stored: the
            number of trades, and the number of distinct times. Generated ids depend on how the files were
            cut. A person should compare these trades with the stored trades.
        per_day: added trades by UTC day.
        unterminated: the number of the last line of each file that does not end with a line break. Such a
            file may be truncated.
        skipped: files of folders that were left out, with the reason.
        skipped: files of folders that were left out, with the reason.
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
    skipped: Mapping[Path, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return the report as one JSON object."""
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
            "skipped": {str(path): reason for path, reason in self.skipped.items()},
        }


def ingest(
    lake: Lake,
    files: Sequence[Path],
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    format: str = "auto",  # noqa: A002 - as the option of the command line is called
    days: Sequence[Interval] | None = None,
    folders: Mapping[Path, Path] | None = None,
    workspace: Path,
    landing: Path | None = None,
    progress: Progress | None = None,
    batch_rows: int = BATCH_ROWS,
) -> IngestReport:
    """Add the trades of landing files that are not in the lake yet.

    Args:
        lake: the lake.
        files: landing files, of any formats and markets.
        exchange: the exchange of all files. It overrides columns and paths.
        symbol: the symbol of all files. It overrides columns and paths.
        format: the format of all files, or `auto`.
        days: only rows in these intervals, and rows without a valid time, are read and counted.
        folders: the folder in which a file was found. Such a file is left out where it cannot be read as a
            whole or its market is unknown. All other files must be good.
        workspace: a folder for temporary files, about as large as the unpacked files.
        landing: the landing folder, with paths `<EXCHANGE>/<SYMBOL>/…`.
        progress: a function that receives progress.
        batch_rows: the maximum rows of one commit. Rows of the same microsecond share a commit.

    Raises:
        BadFileError: a file cannot be read as a whole. No table has changed.
        UsageError: there are no files, a format or a market is unknown, or the trades table is external.
        CommitConflictError: other writers won every attempt. Earlier batches stay committed.
    """
    if not files:
        raise UsageError("no files to ingest: name at least one")
    lake.reject_external_trades()  # before reading, which may take hours
    parse = partial(read_file, exchange=exchange, symbol=symbol, format=format, landing=landing)
    chosen, skipped = list(files), dict[Path, str]()
    while True:
        try:
            with open_temp_folder(workspace) as folder:
                reader = FileReader(SortBuffer(folder), RejectedBuffer(folder), days)
                state = _Ingestion(lake, reader, chosen, folders or {}, progress)
                state.skipped.update(skipped)
                return state.run(parse, batch_rows)
        except _LateSkipError as late:
            # Rows of the file are among the others already. Read all others again.
            chosen.remove(late.path)
            skipped[late.path] = late.reason


class _LateSkipError(Exception):
    """A file of a folder cannot be read to its end, after some of its rows were collected."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


class _Ingestion:
    """Reads files, commits their trades in batches, and counts the outcomes."""

    def __init__(
        self,
        lake: Lake,
        reader: FileReader,
        files: Sequence[Path],
        folders: Mapping[Path, Path],
        progress: Progress | None,
    ) -> None:
        self._lake = lake
        self._reader = reader
        self._files = files
        self._folders = folders
        self.skipped: dict[Path, str] = {}
        self._report_progress = progress or (lambda *_: None)
        self._now = datetime.now(UTC)
        self._totals: Counter[str] = Counter()
        self._per_day: Counter[date] = Counter()

    def run(self, parse: Callable[..., Iterable[ParsedBatch]], batch_rows: int) -> IngestReport:
        """Read all files, commit the trades batch by batch, and commit the rejected rows last."""
        reader, rows = self._reader, 0
        for number, path in enumerate(self._files):
            self._read_file(parse, number, path)
        for span in reader.sort_buffer.split_ranges(batch_rows):
            self._commit_batch(assign_ids(reader.sort_buffer.read(span.start, span.end), reader.daily_files))
            rows += span.rows
            self._report_progress("committed", rows)
        for rejected_rows in reader.rejected_buffer.read_batches():
            rejected.append_rejected(self._lake, rejected_rows, self._now)
        return self._report()

    def _read_file(self, parse: Callable[..., Iterable[ParsedBatch]], number: int, path: Path) -> None:
        """Collect the rows of a file. A file of a folder that cannot be read is left out as a whole."""
        reader, before, folder = self._reader, self._reader.read, self._folders.get(path)
        try:
            for parsed in parse(path, folder=folder, now=self._now):
                reader.add_batch(parsed, number, str(path))
                self._report_progress("read", reader.read)
        except (BadFileError, UsageError) as error:
            if folder is None:
                raise
            if reader.read != before:
                raise _LateSkipError(path, str(error)) from error
            self.skipped[path] = str(error)

    def _commit_batch(self, batch: BatchWithIds) -> None:
        """Append the new trades of a batch, and buffer its conflicts and late trades as rejected rows."""
        reader, markets = self._reader, list(self._reader.markets)
        sources = [str(path) for path in self._files]
        incoming = dedupe.TradeBatch(
            batch.rows, markets, batch.generated_id, batch.first_duplicate, batch.has_daily_ids
        )
        result = trades.append_trades(self._lake, incoming, self._now)
        for mask, reason in ((result.conflict, CONFLICT), (result.too_late, TOO_LATE)):
            reader.rejected_buffer.add_rows(
                build_rejected_rows(batch.rows, mask, reason=reason, markets=markets, sources=sources)
            )
        self._count_batch(batch, result)

    def _count_batch(self, batch: BatchWithIds, result: dedupe.DedupeResult) -> None:
        totals = self._totals
        added, conflicts = int(result.new.sum()), int(result.conflict.sum())
        late = int(result.too_late.sum())
        totals["added"] += added
        totals["conflicts"] += conflicts
        totals["late"] += late
        totals["duplicates"] += len(result.new) - added - conflicts - late
        moments = to_micros_array(batch.rows)
        days, counts = np.unique(moments[result.new] // _DAY_MICROS, return_counts=True)
        for day, count in zip(days.tolist(), counts.tolist(), strict=True):
            self._per_day[from_micros(day * _DAY_MICROS).date()] += count
        shared = result.shared_timestamps | batch.shared_timestamps
        if shared.any():
            markets = batch.rows["market"].to_numpy()
            totals["shared rows"] += int(shared.sum())
            totals["shared times"] += len(np.unique(np.stack([markets[shared], moments[shared]]), axis=1).T)

    def _report(self) -> IngestReport:
        reader, totals = self._reader, self._totals
        return IngestReport(
            read=reader.read,
            added=totals["added"],
            duplicates=totals["duplicates"],
            conflicts=totals["conflicts"],
            rejected=reader.rejected + totals["late"],
            first=None if reader.first is None else from_micros(reader.first),
            last=None if reader.last is None else from_micros(reader.last),
            snapshot=trades.current_snapshot_id(self._lake),
            shared=(totals["shared rows"], totals["shared times"]),
            per_day=dict(sorted(self._per_day.items())),
            unterminated=reader.unterminated,
            skipped=self.skipped,
        )
