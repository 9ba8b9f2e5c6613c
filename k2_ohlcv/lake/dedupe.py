"""Which of some rows the trades table has already: by id, over the whole scope of the id.

An id is unique in its market (exchange and symbol), or in a day of it where its format says so. Id ranges
(`id_ranges`) say which data files may hold an incoming id; only those are opened. An id that is stored with
other values is a conflict. Adding what is new is in `trades`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.intervals import MICROSECOND, Interval, to_micros
from k2_ohlcv.lake.append import is_between, is_one_of
from k2_ohlcv.lake.candidate_files import CandidateFiles
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE, read_bound
from k2_ohlcv.lake.metadata.files import file_time_span, is_within

Mask = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]

# As much of a stored file as is read at once: compaction makes files larger than ours.
_PIECE_ROWS = 2_500_000
# Files of no more are read whole.
_MAX_ROWS_PER_READ = 50_000
_DAY_MICROS = 86_400_000_000
_COLUMNS = ("exchange", "symbol", "trade_id", "timestamp", "price", "quantity")


@dataclass(frozen=True)
class TradeBatch:
    """Rows that may be new trades, sorted by time.

    Attributes:
        rows: `market` (an index into `markets`), `trade_id`, `timestamp`, `price`, `quantity`.
        markets: exchange and symbol of each market.
        generated_id: rows whose id was made, for want of one in the file.
        first_duplicate: for each row, the row among these that has the same id and came first.
        has_daily_ids: rows whose id is unique in its day only; None where there are none.
    """

    rows: pa.Table
    markets: Sequence[tuple[str, str]]
    generated_id: Mask
    first_duplicate: Int64s
    has_daily_ids: Mask | None = None

    @property
    def moments(self) -> Int64s:
        """The rows' times in microseconds since the epoch."""
        moments: Int64s = self.rows["timestamp"].cast(pa.int64()).to_numpy()
        return moments


@dataclass(frozen=True)
class DedupeResult:
    """What became of incoming rows; a row that is in none of the masks is known already.

    Attributes:
        new: added.
        conflict: not added: another row with this id is stored, or came first, with other values.
        too_late: not added: their time lies where trades have expired, and candles are frozen.
        shared_timestamps: rows with made ids whose market and time are stored already.
    """

    new: Mask
    conflict: Mask
    too_late: Mask
    shared_timestamps: Mask


def find_duplicates(table: Table, incoming: TradeBatch) -> DedupeResult:
    """Compare incoming rows with the table's current snapshot.

    Raises:
        ContractError: the table has deletes of another engine that cannot be read.
    """
    size = incoming.rows.num_rows
    same, other = np.zeros(size, bool), np.zeros(size, bool)
    met = _StoredTimes(incoming)
    for stored, rows, at in read_candidate_rows(table, incoming, met.add_rows):
        equal = has_equal_values(incoming.rows, rows, stored, at)
        same[rows[equal]] = True
        other[rows[~equal]] = True
    line = read_bound(table, FROZEN_BEFORE)
    frozen = incoming.moments < to_micros(line) if line else np.zeros(size, bool)
    return _classify(incoming, same, other & ~same, met.mask(), frozen)


def read_candidate_rows(
    table: Table, incoming: TradeBatch, note: Callable[[pa.Table], None] = lambda _: None
) -> Iterator[tuple[pa.Table, Int64s, Int64s]]:
    """Stored rows that have the id of an incoming row, piece by piece.

    Args:
        table: the trades, as they were loaded.
        incoming: the rows to look for.
        note: told each piece: among others, all stored rows at the times of rows whose id was made.

    Yields:
        A piece, and for each match the incoming row and the row of the piece.
    """
    size = incoming.rows.num_rows
    ids = incoming.rows.select(["market", "trade_id"]).append_column("row", pa.array(np.arange(size)))
    tasks = CandidateFiles(incoming.rows, incoming.markets, incoming.generated_id).scan_tasks(table)
    for piece in _pieces(table, tasks, _candidate_filter(incoming)):
        # Where most rows may match, looking for them first would only be more work.
        alike = piece.filter(_candidate_rows(piece, incoming)) if piece.num_rows > 2 * size else piece
        stored = _with_markets(alike, incoming.markets)
        note(stored)
        matches = ids.join(
            stored.select(["market", "trade_id", "at"]), ["market", "trade_id"], join_type="inner"
        )
        yield (
            stored,
            *_filter_daily_ids(incoming, stored, matches["row"].to_numpy(), matches["at"].to_numpy()),
        )


def _filter_daily_ids(
    incoming: TradeBatch, stored: pa.Table, rows: Int64s, at: Int64s
) -> tuple[Int64s, Int64s]:
    """Matches without those of a daily id with a trade of another day."""
    if incoming.has_daily_ids is None:
        return rows, at
    days = incoming.moments[rows] // _DAY_MICROS
    stored_days = stored["timestamp"].cast(pa.int64()).to_numpy()[at] // _DAY_MICROS
    inside = ~incoming.has_daily_ids[rows] | (days == stored_days)
    return rows[inside], at[inside]


def _candidate_rows(stored: pa.Table, incoming: TradeBatch) -> pa.ChunkedArray:
    """Which stored rows have an incoming row's id or, where ids were made, the time of such a row."""
    alike = pc.is_in(stored["trade_id"], pc.unique(incoming.rows["trade_id"]))
    if incoming.generated_id.any():
        times = incoming.rows["timestamp"].filter(pa.array(incoming.generated_id))
        alike = pc.or_(alike, pc.is_in(stored["timestamp"], pc.unique(times)))
    return alike


def _pieces(table: Table, tasks: Sequence[FileScanTask], near: BooleanExpression) -> Iterator[pa.Table]:
    """The rows of data files, in bounded pieces, and more rows where that is cheaper.

    Small files are read together and whole: filters cost more than the rows that they spare. Large ones are
    read each alone, filtered, by slices of time.
    """
    small: list[FileScanTask] = []
    for task in tasks:
        rows = task.file.record_count
        if rows <= min(_MAX_ROWS_PER_READ, _PIECE_ROWS):
            small.append(task)
            continue
        count = -(-rows // _PIECE_ROWS)
        span = file_time_span(table, task.file)
        step = (span.end - span.start) / count + MICROSECOND
        for i in range(count):
            slice_ = Interval(span.start + i * step, span.start + (i + 1) * step)
            yield _read(table, near if count == 1 else And(near, is_within("timestamp", [slice_])), [task])
    lot = max(1, _PIECE_ROWS // _MAX_ROWS_PER_READ)
    for first in range(0, len(small), lot):
        yield _read(table, AlwaysTrue(), small[first : first + lot])


def _read(table: Table, near: BooleanExpression, tasks: Sequence[FileScanTask]) -> pa.Table:
    return ArrowScan(table.metadata, table.io, table.schema().select(*_COLUMNS), near).to_table(tasks)


def _classify(incoming: TradeBatch, same: Mask, other: Mask, met: Mask, frozen: Mask) -> DedupeResult:
    late = ~same & ~other & frozen
    new = ~same & ~other & ~frozen
    first = _first_kept_row(incoming.first_duplicate, new)
    repeats = np.flatnonzero(new & (first != np.arange(len(new))))
    if len(repeats):
        equal = has_equal_values(incoming.rows, repeats, incoming.rows, first[repeats])
        new[repeats] = False
        other[repeats[~equal]] = True
    return DedupeResult(new, other, late, met)


def has_equal_values(left: pa.Table, left_rows: Int64s, right: pa.Table, right_rows: Int64s) -> Mask:
    """Whether rows and their partners have the same time, price and quantity."""
    equal = np.ones(len(left_rows), bool)
    for name in ("timestamp", "price", "quantity"):
        a, b = left[name].take(pa.array(left_rows)), right[name].take(pa.array(right_rows))
        equal &= pc.equal(a, b.cast(a.type)).to_numpy()
    return equal


def _first_kept_row(first: Int64s, new: Mask) -> Int64s:
    """For each row the first one of its id; where that is not new, as it comes too late, one that is."""
    strayed = np.flatnonzero(new & ~new[first])
    if not len(strayed):
        return first
    heads, at = np.unique(first[strayed], return_index=True)
    first = first.copy()
    first[strayed] = strayed[at][np.searchsorted(heads, first[strayed])]
    return first


def _candidate_filter(incoming: TradeBatch) -> BooleanExpression:
    """A filter for large files: these markets and, where no id was made, the ids' least and greatest text."""
    exchanges, symbols = zip(*incoming.markets, strict=True)
    near: BooleanExpression = And(is_one_of("exchange", exchanges), is_one_of("symbol", symbols))
    if (
        not incoming.generated_id.any()
    ):  # else every stored row of their times has to be seen, whatever its id
        least, greatest = (v.as_py() for v in pc.min_max(incoming.rows["trade_id"]).values())
        near = And(near, is_between("trade_id", least, greatest))
    return near


def _with_markets(stored: pa.Table, markets: Sequence[tuple[str, str]]) -> pa.Table:
    """Stored rows of these markets, with the market's index and their own position `at`."""
    exchanges = pc.cast(stored["exchange"], pa.string()).combine_chunks().dictionary_encode()
    symbols = pc.cast(stored["symbol"], pa.string()).combine_chunks().dictionary_encode()
    index = {market: i for i, market in enumerate(markets)}
    symbol_names = symbols.dictionary.to_pylist()
    pairs = [index.get((e, s), -1) for e in exchanges.dictionary.to_pylist() for s in symbol_names]
    codes = exchanges.indices.to_numpy().astype(np.int64) * len(symbol_names) + symbols.indices.to_numpy()
    found = np.array(pairs, np.int32)[codes] if len(codes) else np.empty(0, np.int32)
    stored = stored.drop_columns(["exchange", "symbol"]).append_column("market", pa.array(found))
    stored = stored.set_column(0, "trade_id", pc.cast(stored["trade_id"], pa.string()))
    if (found < 0).any():
        stored = stored.filter(pa.array(found >= 0))
    return stored.append_column("at", pa.array(np.arange(stored.num_rows)))


class _StoredTimes:
    """Which moments of incoming rows with made ids are stored already."""

    def __init__(self, incoming: TradeBatch) -> None:
        self._size = incoming.rows.num_rows
        self._rows = np.flatnonzero(incoming.generated_id)
        markets = incoming.rows["market"].to_numpy()[self._rows]
        moments = incoming.moments[self._rows]
        self._of = {m: np.flatnonzero(markets == m) for m in np.unique(markets).tolist()}
        self._times = {m: np.unique(moments[at], return_inverse=True) for m, at in self._of.items()}
        self._hit = {m: np.zeros(len(times), bool) for m, (times, _) in self._times.items()}

    def add_rows(self, stored: pa.Table) -> None:
        if not self._of:
            return
        markets, moments = stored["market"].to_numpy(), stored["timestamp"].cast(pa.int64()).to_numpy()
        for market, (times, _) in self._times.items():
            seen = moments[markets == market]
            at = np.minimum(np.searchsorted(times, seen), len(times) - 1)
            self._hit[market][at[times[at] == seen]] = True

    def mask(self) -> Mask:
        met = np.zeros(self._size, bool)
        for market, (_, inverse) in self._times.items():
            met[self._rows[self._of[market]]] = self._hit[market][inverse]
        return met
