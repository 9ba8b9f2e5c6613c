"""The trades table: adding trades exactly once, and which of its snapshots a commit may drop.

Which rows are stored already is found out in `dedupe`.
"""

from collections.abc import Set
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import structlog
from pyiceberg.exceptions import CommitStateUnknownException, NoSuchTableError
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, from_micros
from k2_ohlcv.domain.retention import partitions_to_compact, snapshots_since_oldest_needed
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.append import append_new
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import referenced_snapshots, snapshot_infos
from k2_ohlcv.lake.dedupe import DedupeResult, Mask, TradeBatch, find_duplicates
from k2_ohlcv.lake.maintenance.compaction import compact_partitions
from k2_ohlcv.lake.metadata.files import file_sizes
from k2_ohlcv.lake.schemas import CANDLE_SPECS, MIN_SNAPSHOTS_KEPT
from k2_ohlcv.lake.watermark import Watermark

_DAY_MICROS = 86_400_000_000

_log = structlog.get_logger(__name__)


def append_trades(lake: Lake, incoming: TradeBatch, ingested_at: datetime) -> DedupeResult:
    """Add those incoming rows that the table does not have, in one snapshot, or none where there are none.

    Where many small files have gathered in the days that they touch, a further snapshot makes them few: every
    look-up and every refresh would have to open them all.

    Raises:
        CommitConflictError: others committed first, each time.
    """
    verdict: DedupeResult | None = None

    def find_new(table: Table) -> pa.Table:
        nonlocal verdict
        verdict = find_duplicates(table, incoming)
        return to_stored_rows(incoming, verdict.new, ingested_at)

    table = append_new(lake.writable_trades, find_new, lambda table: protected_snapshots(lake, table))
    assert verdict is not None
    touched = np.unique(incoming.moments[verdict.new] // _DAY_MICROS) * _DAY_MICROS
    if many := _partitions_to_compact(
        table, {Grain.DAY.partition(from_micros(day)) for day in touched.tolist()}
    ):
        try:
            compact_partitions(lake.writable_trades, many, lambda table: protected_snapshots(lake, table))
        except (OSError, CommitStateUnknownException) as error:
            # The rows are in, and what reads them is none the worse: the next append tries again.
            _log.warning("small files stay", table=table.name()[-1], partitions=len(many), error=str(error))
    return verdict


def _partitions_to_compact(table: Table, days: Set[Interval]) -> list[Interval]:
    """Those of some days in which many small files lie."""
    sizes = file_sizes(table)
    return partitions_to_compact({day: sizes[day] for day in days if day in sizes}, ())


def to_stored_rows(incoming: TradeBatch, new: Mask, ingested_at: datetime) -> pa.Table:
    """Some incoming rows in the columns of the table."""
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


def protected_snapshots(lake: Lake, trades: Table) -> set[int]:
    """Snapshots of trades that a commit may not drop.

    A refresh reads what changed since its table's watermark: that snapshot and all after it stay, for the
    candle table that is furthest behind. Whatever a branch or tag names stays too.
    """
    if len(trades.metadata.snapshots) < MIN_SNAPSHOTS_KEPT:
        return {s.snapshot_id for s in trades.metadata.snapshots}  # none is old: no candle table is loaded
    since_watermarks = snapshots_since_oldest_needed(snapshot_infos(trades.metadata), _read_watermarks(lake))
    return since_watermarks | referenced_snapshots(trades.metadata)


def _read_watermarks(lake: Lake) -> set[int]:
    found = set()
    for contract in CANDLE_SPECS.values():
        try:
            mark = Watermark.from_table(lake.catalog.load_table(contract.identifier))
        except NoSuchTableError:
            continue
        if mark:
            found.add(mark.snapshot_id)
    return found


def current_snapshot_id(lake: Lake) -> int | None:
    """The id of the table's current snapshot, or None where nothing was ever added."""
    snapshot = lake.trades().current_snapshot()
    return snapshot.snapshot_id if snapshot else None
