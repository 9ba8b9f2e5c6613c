"""What happened to trades between two snapshots, as spans of time. Reads Iceberg metadata only.

Spans here are not aligned to anything: whoever asks aligns them to its windows.
"""

from pyiceberg.table import Table
from pyiceberg.table.snapshots import ancestors_of

from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.window import Interval, coalesce
from k2_ohlcv.lake.files import difference, live_files


def trades_spans(trades: Table, snapshot_id: int | None) -> list[Interval]:
    """Where there are trades at a snapshot, to the bounds of each data file."""
    return coalesce(
        f.span for f in live_files(trades, "timestamp", Grain.DAY, snapshot_id) if not f.is_delete
    )


def descends(trades: Table, snapshot_id: int, ancestor_id: int) -> bool:
    """Whether a snapshot is another one or comes after it in the table's history."""
    snapshot = trades.metadata.snapshot_by_id(snapshot_id)
    return any(s.snapshot_id == ancestor_id for s in ancestors_of(snapshot, trades.metadata))


def dirty_spans(trades: Table, before: int, after: int) -> list[Interval] | None:
    """The spans in which trades may differ between two snapshots.

    Returns:
        Spans, empty where nothing changed; None where it cannot be known, because `before` has expired or
        is no ancestor of `after`: then everything may have changed.
    """
    if before == after:
        return []
    if trades.metadata.snapshot_by_id(before) is None or not descends(trades, after, before):
        return None
    gone, come = difference(trades, "timestamp", Grain.DAY, before, after)
    return coalesce(f.span for f in (*gone, *come))
