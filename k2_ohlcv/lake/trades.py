"""The trades table: which of some rows it has already, and appending the others exactly once.

(exchange, symbol, trade_id) is unique. Ids are looked for in the days of the incoming rows and one day either
side; an id that is there with other values is a conflict and stays out.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from pyiceberg.exceptions import CommitStateUnknownException, NoSuchTableError
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import DataScan, FileScanTask, Table

from k2_ohlcv.domain.retention import crowded
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.window import DAY, MICROSECOND, Interval, bound, from_micros, to_micros
from k2_ohlcv.lake.appends import append_new, between, isin
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.compaction import compact
from k2_ohlcv.lake.files import TIME, file_sizes, live_span, within
from k2_ohlcv.lake.lines import FROZEN, line_of
from k2_ohlcv.lake.schemas import CANDLES, SNAPSHOTS_KEPT
from k2_ohlcv.lake.watermark import Watermark

Mask = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]

# Alternatives in a filter: beyond this, days between are read instead.
_MOST_INTERVALS = 64
# As much of a stored file as is read at once: compaction makes files larger than ours.
_PIECE_ROWS = 2_500_000
# Files of no more are read whole.
_SMALL_ROWS = 50_000
_DAY_MICROS = 86_400_000_000
_COLUMNS = ("exchange", "symbol", "trade_id", "timestamp", "price", "quantity")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Incoming:
    """Rows that may be new trades, sorted by time.

    Attributes:
        rows: `market` (an index into `markets`), `trade_id`, `timestamp`, `price`, `quantity`.
        markets: exchange and symbol of each market.
        made: rows whose id was made, for want of one in the file.
        first: for each row, the row among these that has the same id and came first.
    """

    rows: pa.Table
    markets: Sequence[tuple[str, str]]
    made: Mask
    first: Int64s

    @property
    def moments(self) -> Int64s:
        """The rows' times in microseconds since the epoch."""
        moments: Int64s = self.rows["timestamp"].cast(pa.int64()).to_numpy()
        return moments


@dataclass(frozen=True)
class Verdict:
    """What became of incoming rows; a row that is in none of the masks is known already.

    Attributes:
        new: added.
        conflict: not added: another row with this id is stored, or came first, with other values.
        late: not added: their time lies where trades have expired, and candles are frozen.
        met: rows with made ids whose market and time are stored already.
    """

    new: Mask
    conflict: Mask
    late: Mask
    met: Mask


def append(lake: Lake, incoming: Incoming, ingested_at: datetime) -> Verdict:
    """Add those incoming rows that the table does not have, in one snapshot, or none where there are none.

    Where many small files have gathered in the days that they touch, a further snapshot makes them few: every
    look-up and every refresh would have to open them all.

    Raises:
        CommitConflictError: others committed first, each time.
    """
    verdict: Verdict | None = None

    def find_new(table: Table) -> pa.Table:
        nonlocal verdict
        verdict = look_up(table, incoming)
        return _stored_form(incoming, verdict.new, ingested_at)

    table = append_new(lake.trades_to_write, find_new, lambda table: expired(lake, table))
    assert verdict is not None
    touched = np.unique(incoming.moments[verdict.new] // _DAY_MICROS) * _DAY_MICROS
    if many := _crowded(table, {Grain.DAY.partition(from_micros(day)) for day in touched.tolist()}):
        try:
            compact(lake.trades_to_write, many, lambda table: needed(lake, table))
        except (OSError, CommitStateUnknownException) as error:
            # The rows are in, and what reads them is none the worse: the next append tries again.
            _log.warning("small files stay", table=table.name()[-1], partitions=len(many), error=str(error))
    return verdict


def _crowded(table: Table, days: Set[Interval]) -> list[Interval]:
    """Those of some days in which many small files lie."""
    sizes = file_sizes(table, TIME, Grain.DAY)
    return crowded({day: sizes[day] for day in days if day in sizes}, ())


def look_up(table: Table, incoming: Incoming) -> Verdict:
    """Compare incoming rows with the table's current snapshot."""
    size = incoming.rows.num_rows
    same, other = np.zeros(size, bool), np.zeros(size, bool)
    met = _Moments(incoming)
    scan = table.scan(row_filter=_nearby(incoming), selected_fields=_COLUMNS)
    exchanges, symbols = zip(*incoming.markets, strict=True)
    markets = And(isin("exchange", exchanges), isin("symbol", symbols))
    ids = incoming.rows.select(["market", "trade_id"]).append_column("row", pa.array(np.arange(size)))
    for piece in _pieces(table, scan, markets):
        # Where most rows may match, looking for them first would only be more work.
        alike = piece.filter(_alike(piece, incoming)) if piece.num_rows > 2 * size else piece
        stored = _with_markets(alike, incoming.markets)
        met.note(stored)
        matches = ids.join(
            stored.select(["market", "trade_id", "at"]), ["market", "trade_id"], join_type="inner"
        )
        if matches.num_rows:
            rows = matches["row"].to_numpy()
            equal = _equal(incoming.rows, rows, stored, matches["at"].to_numpy())
            same[rows[equal]] = True
            other[rows[~equal]] = True
    line = line_of(table, FROZEN)
    frozen = incoming.moments < to_micros(line) if line else np.zeros(size, bool)
    return _judged(incoming, same, other & ~same, met.mask(), frozen)


def _alike(stored: pa.Table, incoming: Incoming) -> pa.ChunkedArray:
    """Which stored rows have an incoming row's id or, where ids were made, the time of such a row."""
    alike = pc.is_in(stored["trade_id"], pc.unique(incoming.rows["trade_id"]))
    if incoming.made.any():
        times = incoming.rows["timestamp"].filter(pa.array(incoming.made))
        alike = pc.or_(alike, pc.is_in(stored["timestamp"], pc.unique(times)))
    return alike


def _pieces(table: Table, scan: DataScan, markets: BooleanExpression) -> Iterator[pa.Table]:
    """What a scan finds, and more where that is cheaper: memory stays as it is.

    Small files are read together and whole, as filters cost more than the rows that they spare; large ones
    each alone, filtered, by slices of time.
    """
    small: list[FileScanTask] = []
    for task in scan.plan_files():
        rows = task.file.record_count
        if rows <= min(_SMALL_ROWS, _PIECE_ROWS):
            small.append(task)
            continue
        count = -(-rows // _PIECE_ROWS)
        span = live_span(table, "timestamp", Grain.DAY, task.file)
        step = (span.end - span.start) / count + MICROSECOND
        near = And(scan.row_filter, markets)
        for i in range(count):
            slice_ = Interval(span.start + i * step, span.start + (i + 1) * step)
            yield _read(table, scan, near if count == 1 else And(near, within("timestamp", [slice_])), [task])
    lot = max(1, _PIECE_ROWS // _SMALL_ROWS)
    for first in range(0, len(small), lot):
        yield _read(table, scan, AlwaysTrue(), small[first : first + lot])


def _read(table: Table, scan: DataScan, near: BooleanExpression, tasks: Sequence[FileScanTask]) -> pa.Table:
    return ArrowScan(table.metadata, table.io, scan.projection(), near).to_table(tasks)


def _judged(incoming: Incoming, same: Mask, other: Mask, met: Mask, frozen: Mask) -> Verdict:
    late = ~same & ~other & frozen
    new = ~same & ~other & ~frozen
    repeats = np.flatnonzero(new & (incoming.first != np.arange(len(new))))
    if len(repeats):
        equal = _equal(incoming.rows, repeats, incoming.rows, incoming.first[repeats])
        new[repeats] = False
        other[repeats[~equal]] = True
    return Verdict(new, other, late, met)


def _equal(left: pa.Table, left_rows: Int64s, right: pa.Table, right_rows: Int64s) -> Mask:
    equal = np.ones(len(left_rows), bool)
    for name in ("timestamp", "price", "quantity"):
        a, b = left[name].take(pa.array(left_rows)), right[name].take(pa.array(right_rows))
        equal &= pc.equal(a, b.cast(a.type)).to_numpy()
    return equal


def _nearby(incoming: Incoming) -> BooleanExpression:
    days = np.unique(incoming.moments // _DAY_MICROS) * _DAY_MICROS
    around = [Interval(from_micros(d) - DAY, from_micros(d) + 2 * DAY) for d in days.tolist()]
    near = within("timestamp", bound(around, _MOST_INTERVALS))
    if not incoming.made.any():  # else every stored row of their times has to be seen, whatever its id
        least, greatest = (v.as_py() for v in pc.min_max(incoming.rows["trade_id"]).values())
        near = And(near, between("trade_id", least, greatest))
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


class _Moments:
    """Which moments of incoming rows with made ids are stored already."""

    def __init__(self, incoming: Incoming) -> None:
        self._size = incoming.rows.num_rows
        self._rows = np.flatnonzero(incoming.made)
        markets = incoming.rows["market"].to_numpy()[self._rows]
        moments = incoming.moments[self._rows]
        self._of = {m: np.flatnonzero(markets == m) for m in np.unique(markets).tolist()}
        self._times = {m: np.unique(moments[at], return_inverse=True) for m, at in self._of.items()}
        self._hit = {m: np.zeros(len(times), bool) for m, (times, _) in self._times.items()}

    def note(self, stored: pa.Table) -> None:
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


def _stored_form(incoming: Incoming, new: Mask, ingested_at: datetime) -> pa.Table:
    rows = incoming.rows if new.all() else incoming.rows.filter(pa.array(new))
    exchanges, symbols = (pa.array(names, pa.string()) for names in zip(*incoming.markets, strict=True))
    clock = pa.repeat(pa.scalar(ingested_at.astimezone(UTC), pa.timestamp("us", "UTC")), rows.num_rows)
    return pa.table(
        {
            "exchange": exchanges.take(rows["market"].combine_chunks()),
            "symbol": symbols.take(rows["market"].combine_chunks()),
            **{name: rows[name] for name in ("trade_id", "timestamp", "price", "quantity")},
            "ingested_at": clock,
        }
    )


def expired(lake: Lake, trades: Table) -> list[int]:
    """Snapshots of trades that a commit may drop: all but the newest, and none that candles still need.

    A refresh reads what changed since its table's watermark: that snapshot and all after it stay, for the
    candle table that is furthest behind; and so does whatever a branch or tag names.
    """
    snapshots = sorted(trades.metadata.snapshots, key=lambda s: (s.sequence_number or 0, s.timestamp_ms))
    old = snapshots[: max(0, len(snapshots) - SNAPSHOTS_KEPT + 1)]
    if not old:
        return []
    needed = _watermarks(lake)
    held = {ref.snapshot_id for ref in trades.metadata.refs.values()}
    first_needed = next((i for i, s in enumerate(snapshots) if s.snapshot_id in needed), len(snapshots))
    return [s.snapshot_id for s in old[:first_needed] if s.snapshot_id not in held]


def needed(lake: Lake, trades: Table) -> set[int]:
    """Snapshots of trades that a commit may not drop: all but those that `expired` names."""
    return {s.snapshot_id for s in trades.snapshots()} - set(expired(lake, trades))


def _watermarks(lake: Lake) -> set[int]:
    found = set()
    for contract in CANDLES.values():
        try:
            mark = Watermark.of(lake.catalog.load_table(contract.identifier))
        except NoSuchTableError:
            continue
        if mark:
            found.add(mark.snapshot_id)
    return found


def current_snapshot(lake: Lake) -> int | None:
    """The id of the table's current snapshot, or None where nothing was ever added."""
    snapshot = lake.trades().current_snapshot()
    return snapshot.snapshot_id if snapshot else None
