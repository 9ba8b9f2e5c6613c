"""Compares two snapshots of trades by metadata alone: the files that differ, and the spans of deleted rows.

The files that differ are live at one of the two snapshots only. The operations between the snapshots
(appends, overwrites, a rollback) do not matter. A walk through the history instead would miss the files of
an expired snapshot. Files that compaction rewrote are found in `rewritten_files`, the windows whose trades
differ in `dirty_windows`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake.metadata.file_search import data_files_within
from k2_ohlcv.lake.metadata.files import LiveFile, diff_files, live_files
from k2_ohlcv.lake.metadata.manifests import deleted_file
from k2_ohlcv.lake.metadata.rewritten_files import RewrittenFiles
from k2_ohlcv.lake.metadata.row_deletes import RowDeletes

#: Seconds from the epoch to 2200. Limits the snapshot time of a writer with a wrong clock.
_MAX_CLOCK_SECONDS = 7_258_118_400


@dataclass(frozen=True)
class SnapshotDiff:
    """The files in which two snapshots of trades differ.

    Attributes:
        removed_files: data files that only the earlier snapshot has.
        added_files: data files that only the later snapshot has.
        deleted_spans: time spans in which delete files may have deleted rows. They cover the delete files of
            only one snapshot, and removed or added data files with deletes. The live rows of such a data
            file differ from the rows in the file.
        reason: why the difference is unknown and all windows may be dirty; None where it is known.
    """

    removed_files: tuple[LiveFile, ...] = ()
    added_files: tuple[LiveFile, ...] = ()
    deleted_spans: tuple[Interval, ...] = ()
    reason: str | None = None

    @property
    def bounds(self) -> list[Interval]:
        """The time spans in which trades may differ, by the bounds of the files."""
        return coalesce([*(f.span for f in (*self.removed_files, *self.added_files)), *self.deleted_spans])


def diff_snapshots(trades: Table, before: int | None, after: int) -> SnapshotDiff:
    """Compare two snapshots of trades, from metadata alone.

    Files that compaction rewrote are left out, as long as the compaction's snapshot is in the history.

    Args:
        trades: the trades table, whose metadata has the snapshot `after`.
        before: the snapshot that the candles are equal to; None without a watermark.
        after: the snapshot that a refresh makes the candles equal to.
    """
    if before is None:
        return SnapshotDiff(reason="the table has no watermark yet")
    if before == after:
        return SnapshotDiff()
    if trades.metadata.snapshot_by_id(before) is None:
        return SnapshotDiff(
            reason=f"the trades snapshot of the watermark, {before}, has expired or is of another table"
        )
    removed, added = diff_files(trades, before, after)
    spans = _deleted_spans(trades, [f for f in (*removed, *added) if f.is_delete], (before, after))
    if spans is None:
        return SnapshotDiff(
            reason="delete files were added or removed, and metadata does not name their rows"
        )
    spans += _spans_with_deletes(trades, before, removed) + _spans_with_deletes(trades, after, added)
    rewritten = RewrittenFiles.find(trades, before, after)
    removed, added = rewritten.exclude_rewrites(
        [f for f in removed if not f.is_delete], [f for f in added if not f.is_delete]
    )
    removed, added = ([f for f in files if not f.has_only_impossible_times] for files in (removed, added))
    return SnapshotDiff(tuple(removed), tuple(added), (*spans, *_newly_possible(trades, before)))


def trades_spans(trades: Table, snapshot_id: int | None) -> list[Interval]:
    """The time spans of the trades at a snapshot, by the bounds of the data files."""
    files = live_files(trades, snapshot_id)
    return coalesce(f.span for f in files if not f.is_delete and not f.has_only_impossible_times)


def trades_spans_within(trades: Table, snapshot_id: int | None, interval: Interval) -> list[Interval]:
    """The parts of an interval in which there are trades at a snapshot, by the bounds of the data files."""
    files = data_files_within(trades, snapshot_id, [interval])
    return intersect_all((f.span for f in files if not f.has_only_impossible_times), [interval])


def _newly_possible(trades: Table, before: int) -> list[Interval]:
    """The spans of rows whose time was in the future at the earlier snapshot, and is possible now.

    Candles of a snapshot are computed no earlier than the snapshot's own time.
    """
    snapshot = trades.metadata.snapshot_by_id(before)
    assert snapshot is not None
    now = possible_trade_times()
    then = possible_trade_times(
        datetime.fromtimestamp(min(snapshot.timestamp_ms / 1000, _MAX_CLOCK_SECONDS), UTC)
    )
    if then.end >= now.end:
        return []
    newly_possible = Interval(then.end, now.end)
    files = data_files_within(trades, before, [newly_possible])
    return [span for f in files if (span := f.span.intersect(newly_possible))]


def _spans_with_deletes(trades: Table, snapshot: int, files: Sequence[LiveFile]) -> list[Interval]:
    """The spans of data files to which delete files of a snapshot apply."""
    deletes = RowDeletes.from_snapshot(trades, snapshot)
    return [f.span for f in files if not f.is_delete and deletes.deletes_for(f.file, f.sequence)]


def _deleted_spans(
    trades: Table, deletes: Sequence[LiveFile], snapshots: Iterable[int]
) -> list[Interval] | None:
    """The time spans in which delete files may have deleted rows; None where that is unknown."""
    if not deletes:
        return []
    data = [f for s in snapshots for f in live_files(trades, s) if not f.is_delete]
    spans_by_path = {f.path: f.span for f in data}
    spans: list[Interval] = []
    for delete in deletes:
        path = deleted_file(delete.file)
        if path is not None:
            if path in spans_by_path:
                spans.append(spans_by_path[path])
            continue
        if delete.file.spec_id != trades.spec().spec_id or not trades.spec().fields:
            return None
        spans += [f.span for f in data if f.file.partition == delete.file.partition]
    return spans
