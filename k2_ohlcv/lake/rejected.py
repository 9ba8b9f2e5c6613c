"""Appends rejected rows. Each row is stored once, however often its file is ingested.

Why a row is rejected is decided in `sources`.
"""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import And
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import Table

from k2_ohlcv.lake.append import append_new, is_between, is_one_of
from k2_ohlcv.lake.catalog import Lake

#: The columns that identify a rejected row. The market is left out: a later run may name another market.
REJECTED_KEY = ("source", "line", "reason", "raw")


def append_rejected(lake: Lake, rows: pa.Table, rejected_at: datetime) -> int:
    """Append the rejected rows that are not stored yet.

    Args:
        lake: the lake.
        rows: `source`, `line`, `reason`, `raw`, `exchange`, `symbol`; the caller bounds the number of rows.
        rejected_at: the time of this ingestion.

    Returns:
        The number of rows added.
    """
    added = 0
    rows = rows.group_by(list(REJECTED_KEY), use_threads=False).aggregate(
        [("exchange", "first"), ("symbol", "first")]
    )
    rows = rows.rename_columns([*REJECTED_KEY, "exchange", "symbol"]).sort_by(
        [("source", "ascending"), ("line", "ascending")]
    )

    def find_new(table: Table) -> pa.Table:
        nonlocal added
        new = _without_stored(table, rows)
        added = new.num_rows
        clock = pa.scalar(rejected_at.astimezone(UTC), pa.timestamp("us", "UTC"))
        return new.append_column("rejected_at", pa.repeat(clock, new.num_rows))

    if rows.num_rows:
        append_new(lake.writable_rejected, find_new)
    return added


def _without_stored(table: Table, rows: pa.Table) -> pa.Table:
    line_range = pc.min_max(rows["line"])
    row_filter = And(
        is_one_of("source", pc.unique(rows["source"]).to_pylist()),
        is_between("line", line_range["min"].as_py(), line_range["max"].as_py()),
    )
    scan = table.scan(row_filter=row_filter, selected_fields=REJECTED_KEY)
    reader = ArrowScan(table.metadata, table.io, scan.projection(), scan.row_filter)
    for task in scan.plan_files():
        stored = (
            reader.to_table([task]).select(list(REJECTED_KEY)).cast(rows.select(list(REJECTED_KEY)).schema)
        )
        rows = rows.join(stored, list(REJECTED_KEY), join_type="left anti").sort_by(
            [("source", "ascending"), ("line", "ascending")]
        )
    return rows.select([*REJECTED_KEY, "exchange", "symbol"])
