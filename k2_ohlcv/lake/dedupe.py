"""Finds duplicates: incoming rows that the trades table already has, by trade id over the id's whole scope.

An id is unique in its market (exchange and symbol), or for some formats in a day of the market. Only
data files whose id range includes an incoming id are read (`candidate_files`). An id that is stored with
other values is a conflict. Appending the new rows is in `trades`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import And, BooleanExpression
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import to_micros
from k2_ohlcv.lake.append import is_between, is_one_of
from k2_ohlcv.lake.candidate_files import CandidateFiles
from k2_ohlcv.lake.candidate_rows import read_pieces, with_markets
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE, read_bound

Mask = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]

_DAY_MICROS = 86_400_000_000


@dataclass(frozen=True)
class TradeBatch:
    """Rows that may be new trades, sorted by time.

    Attributes:
        rows: `market` (an index into `markets`), `trade_id`, `timestamp`, `price`, `quantity`.
        markets: exchange and symbol of each market.
        generated_id: rows with a generated id, because the file has none.
        first_duplicate: for each row, the first row of the batch with the same id.
        has_daily_ids: rows whose id is unique in its day only; None where no row has such an id.
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
    """The incoming rows by result, as masks. A row in none of the first three masks is a duplicate.

    Attributes:
        new: rows to add.
        conflict: rows whose id is stored, or is earlier in the batch, with other values.
        too_late: rows before `frozen_before`, where trades have expired.
        shared_timestamps: rows with generated ids whose market and time are already stored.
    """

    new: Mask
    conflict: Mask
    too_late: Mask
    shared_timestamps: Mask


def find_duplicates(table: Table, incoming: TradeBatch) -> DedupeResult:
    """Compare incoming rows with the table's current snapshot.

    Raises:
        TableSpecError: the table has deletes of another engine that cannot be read.
    """
    size = incoming.rows.num_rows
    is_same, is_different = np.zeros(size, bool), np.zeros(size, bool)
    stored_times = _StoredTimes(incoming)
    for stored, rows, positions in read_candidate_rows(table, incoming, stored_times.add_rows):
        is_equal = has_equal_values(incoming.rows, rows, stored, positions)
        is_same[rows[is_equal]] = True
        is_different[rows[~is_equal]] = True
    bound = read_bound(table, FROZEN_BEFORE)
    is_frozen = incoming.moments < to_micros(bound) if bound else np.zeros(size, bool)
    return _classify(incoming, is_same, is_different & ~is_same, stored_times.mask(), is_frozen)


def read_candidate_rows(
    table: Table, incoming: TradeBatch, on_piece: Callable[[pa.Table], None] = lambda _: None
) -> Iterator[tuple[pa.Table, Int64s, Int64s]]:
    """Read the stored rows that have the id of an incoming row, in pieces.

    Args:
        table: the loaded trades table.
        incoming: the incoming rows.
        on_piece: called with each piece. The pieces include all stored rows at the time of an incoming row
            with a generated id.

    Yields:
        A piece, and for each match the incoming row and the position in the piece.
    """
    size = incoming.rows.num_rows
    ids = incoming.rows.select(["market", "trade_id"]).append_column("row", pa.array(np.arange(size)))
    tasks = CandidateFiles(incoming.rows, incoming.markets, incoming.generated_id).scan_tasks(table)
    for piece in read_pieces(table, tasks, _candidate_filter(incoming)):
        # The join alone is cheaper where most rows of a piece may match.
        candidates = piece.filter(_is_candidate(piece, incoming)) if piece.num_rows > 2 * size else piece
        stored = with_markets(candidates, incoming.markets)
        on_piece(stored)
        matches = ids.join(
            stored.select(["market", "trade_id", "position"]), ["market", "trade_id"], join_type="inner"
        )
        rows, positions = matches["row"].to_numpy(), matches["position"].to_numpy()
        yield (stored, *_filter_daily_ids(incoming, stored, rows, positions))


def _filter_daily_ids(
    incoming: TradeBatch, stored: pa.Table, rows: Int64s, positions: Int64s
) -> tuple[Int64s, Int64s]:
    """Drop matches of an id that is unique in its day only with a trade of another day."""
    if incoming.has_daily_ids is None:
        return rows, positions
    days = incoming.moments[rows] // _DAY_MICROS
    stored_days = stored["timestamp"].cast(pa.int64()).to_numpy()[positions] // _DAY_MICROS
    is_match = ~incoming.has_daily_ids[rows] | (days == stored_days)
    return rows[is_match], positions[is_match]


def _is_candidate(stored: pa.Table, incoming: TradeBatch) -> pa.ChunkedArray:
    """Whether a stored row has an incoming id, or the time of an incoming row with a generated id."""
    is_candidate = pc.is_in(stored["trade_id"], pc.unique(incoming.rows["trade_id"]))
    if incoming.generated_id.any():
        times = incoming.rows["timestamp"].filter(pa.array(incoming.generated_id))
        is_candidate = pc.or_(is_candidate, pc.is_in(stored["timestamp"], pc.unique(times)))
    return is_candidate


def _classify(
    incoming: TradeBatch, is_same: Mask, is_different: Mask, shared_timestamps: Mask, is_frozen: Mask
) -> DedupeResult:
    """Classify the incoming rows. Duplicates within the batch are compared with the first row of their id."""
    too_late = ~is_same & ~is_different & is_frozen
    new = ~is_same & ~is_different & ~is_frozen
    first = _first_new_row(incoming.first_duplicate, new)
    repeats = np.flatnonzero(new & (first != np.arange(len(new))))
    if len(repeats):
        is_equal = has_equal_values(incoming.rows, repeats, incoming.rows, first[repeats])
        new[repeats] = False
        is_different[repeats[~is_equal]] = True
    return DedupeResult(new, is_different, too_late, shared_timestamps)


def has_equal_values(left: pa.Table, left_rows: Int64s, right: pa.Table, right_rows: Int64s) -> Mask:
    """Whether pairs of rows have the same time, price and quantity."""
    is_equal = np.ones(len(left_rows), bool)
    for name in ("timestamp", "price", "quantity"):
        a, b = left[name].take(pa.array(left_rows)), right[name].take(pa.array(right_rows))
        is_equal &= pc.equal(a, b.cast(a.type)).to_numpy()
    return is_equal


def _first_new_row(first: Int64s, new: Mask) -> Int64s:
    """For each row the first row of its id. Where that row is too late, the first new row of the id."""
    unmatched = np.flatnonzero(new & ~new[first])
    if not len(unmatched):
        return first
    old_firsts, indexes = np.unique(first[unmatched], return_index=True)
    first = first.copy()
    first[unmatched] = unmatched[indexes][np.searchsorted(old_firsts, first[unmatched])]
    return first


def _candidate_filter(incoming: TradeBatch) -> BooleanExpression:
    """A row filter for large files: the markets, and the range of the incoming ids.

    With generated ids every stored row of the same time is needed, so the filter leaves the ids out.
    """
    exchanges, symbols = zip(*incoming.markets, strict=True)
    row_filter: BooleanExpression = And(is_one_of("exchange", exchanges), is_one_of("symbol", symbols))
    if not incoming.generated_id.any():
        least, greatest = (v.as_py() for v in pc.min_max(incoming.rows["trade_id"]).values())
        row_filter = And(row_filter, is_between("trade_id", least, greatest))
    return row_filter


class _StoredTimes:
    """Records which times of incoming rows with generated ids are already stored."""

    def __init__(self, incoming: TradeBatch) -> None:
        self._size = incoming.rows.num_rows
        self._rows = np.flatnonzero(incoming.generated_id)
        markets = incoming.rows["market"].to_numpy()[self._rows]
        moments = incoming.moments[self._rows]
        self._by_market = {m: np.flatnonzero(markets == m) for m in np.unique(markets).tolist()}
        self._times = {m: np.unique(moments[i], return_inverse=True) for m, i in self._by_market.items()}
        self._is_stored = {m: np.zeros(len(times), bool) for m, (times, _) in self._times.items()}

    def add_rows(self, stored: pa.Table) -> None:
        if not self._by_market:
            return
        markets, moments = stored["market"].to_numpy(), stored["timestamp"].cast(pa.int64()).to_numpy()
        for market, (times, _) in self._times.items():
            stored_times = moments[markets == market]
            indexes = np.minimum(np.searchsorted(times, stored_times), len(times) - 1)
            self._is_stored[market][indexes[times[indexes] == stored_times]] = True

    def mask(self) -> Mask:
        is_shared = np.zeros(self._size, bool)
        for market, (_, inverse) in self._times.items():
            is_shared[self._rows[self._by_market[market]]] = self._is_stored[market][inverse]
        return is_shared
