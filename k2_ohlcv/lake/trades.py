"""Appends trades exactly once, and names the trades snapshots that a commit may not expire.

The search for stored trades is in `dedupe`, the commit in `append`.
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
    """Add the incoming rows that the table does not have, in one snapshot. No new rows, no snapshot.

    Days of new rows that have many small files are then compacted, in further snapshots. Every search for
    duplicates and every refresh would otherwise open all small files.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    result: DedupeResult | None = None

    def find_new(table: Table) -> pa.Table:
        nonlocal result
        result = find_duplicates(table, incoming)
        return to_stored_rows(incoming, result.new, ingested_at)

    table = append_new(lake.writable_trades, find_new, lambda table: protected_snapshots(lake, table))
    assert result is not None
    day_starts = np.unique(incoming.moments[result.new] // _DAY_MICROS) * _DAY_MICROS
    days = {Grain.DAY.partition(from_micros(start)) for start in day_starts.tolist()}
    if partitions := _partitions_to_compact(table, days):
        try:
            compact_partitions(
                lake.writable_trades, partitions, lambda table: protected_snapshots(lake, table)
            )
        except (OSError, CommitStateUnknownException) as error:
            # The rows are committed and correct. The next append tries the compaction again.
            _log.warning(
                "small files stay", table=table.name()[-1], partitions=len(partitions), error=str(error)
            )
    return result


def _partitions_to_compact(table: Table, days: Set[Interval]) -> list[Interval]:
    """The days that have many small files."""
    sizes = file_sizes(table)
    return partitions_to_compact({day: sizes[day] for day in days if day in sizes}, ())


def to_stored_rows(incoming: TradeBatch, new: Mask, ingested_at: datetime) -> pa.Table:
    """The new ones of the incoming rows, in the columns of the table."""
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
    """The snapshots of trades that a commit may not expire.

    A refresh compares the watermark's snapshot with the current one. The oldest watermark's snapshot and all
    later ones therefore stay. The snapshots of branches and tags stay too.
    """
    if len(trades.metadata.snapshots) < MIN_SNAPSHOTS_KEPT:
        # Few snapshots: none expires, and loading the candle tables is not needed.
        return {s.snapshot_id for s in trades.metadata.snapshots}
    since_watermarks = snapshots_since_oldest_needed(snapshot_infos(trades.metadata), _read_watermarks(lake))
    return since_watermarks | referenced_snapshots(trades.metadata)


def _read_watermarks(lake: Lake) -> set[int]:
    """The trades snapshots of the watermarks of all candle tables."""
    snapshot_ids = set()
    for spec in CANDLE_SPECS.values():
        try:
            watermark = Watermark.from_table(lake.catalog.load_table(spec.identifier))
        except NoSuchTableError:
            continue
        if watermark:
            snapshot_ids.add(watermark.snapshot_id)
    return snapshot_ids


def current_snapshot_id(lake: Lake) -> int | None:
    """The id of the current trades snapshot; None where the table never had a trade."""
    snapshot = lake.trades().current_snapshot()
    return snapshot.snapshot_id if snapshot else None
