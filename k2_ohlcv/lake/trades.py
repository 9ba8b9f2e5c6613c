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

from k2_ohlcv.domain.retention import crowded, snapshots_since
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.window import Interval, from_micros
from k2_ohlcv.lake.appends import append_new
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import referenced, versions_of
from k2_ohlcv.lake.compaction import compact
from k2_ohlcv.lake.dedupe import Incoming, Mask, Verdict, look_up
from k2_ohlcv.lake.files import file_sizes
from k2_ohlcv.lake.schemas import CANDLES, SNAPSHOTS_KEPT
from k2_ohlcv.lake.watermark import Watermark

_DAY_MICROS = 86_400_000_000

_log = structlog.get_logger(__name__)


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
        return stored_form(incoming, verdict.new, ingested_at)

    table = append_new(lake.trades_to_write, find_new, lambda table: needed(lake, table))
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
    sizes = file_sizes(table)
    return crowded({day: sizes[day] for day in days if day in sizes}, ())


def stored_form(incoming: Incoming, new: Mask, ingested_at: datetime) -> pa.Table:
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


def needed(lake: Lake, trades: Table) -> set[int]:
    """Snapshots of trades that a commit may not drop.

    A refresh reads what changed since its table's watermark: that snapshot and all after it stay, for the
    candle table that is furthest behind. Whatever a branch or tag names stays too.
    """
    if len(trades.metadata.snapshots) < SNAPSHOTS_KEPT:
        return {s.snapshot_id for s in trades.metadata.snapshots}  # none is old: no candle table is loaded
    since_watermarks = snapshots_since(versions_of(trades.metadata), _watermarks(lake))
    return since_watermarks | referenced(trades.metadata)


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
