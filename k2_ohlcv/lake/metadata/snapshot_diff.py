"""What happened to trades between two snapshots: which files, and which moments.

The difference of the two snapshots' live files, from the manifests that they do not share. It does not matter
how the one became the other (appends, overwrites, a rollback): what is live at one only is what differs.
Walking the history instead would miss the files of a snapshot that expired in between.

The moments here are not aligned to anything: whoever asks aligns them to its windows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.intervals import Interval, coalesce, from_micros, is_covered, to_micros
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake.external_trades import ExternalTrades, find_time_column
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, LiveFile, diff_files, live_files
from k2_ohlcv.lake.metadata.manifests import deleted_file
from k2_ohlcv.lake.metadata.rewritten_files import RewrittenFiles
from k2_ohlcv.lake.metadata.row_deletes import RowDeletes
from k2_ohlcv.lake.time_column import TimeColumn

#: Rows and files that are read to find windows more closely. What is beyond counts with its bounds: reading
#: it would cost as much as computing its windows.
MAX_ROWS, MAX_FILES = 5_000_000, 500

#: Seconds since the epoch until 2200, for clocks of writers that are far off.
_MAX_CLOCK_SECONDS = 7_258_118_400


@dataclass(frozen=True)
class SnapshotDiff:
    """The files in which two snapshots of trades differ.

    Attributes:
        removed_files: data files that only the earlier one has.
        added_files: data files that only the later one has.
        deleted_spans: where delete files may have deleted rows: those that only one of the snapshots has, and
            those that bear on files of `removed_files` at the earlier one, or of `added_files` at the later
            one. What such data files hold is not what is live.
        reason: why the difference cannot be known, and everything may have changed; None where it is known.
    """

    removed_files: tuple[LiveFile, ...] = ()
    added_files: tuple[LiveFile, ...] = ()
    deleted_spans: tuple[Interval, ...] = ()
    reason: str | None = None

    @property
    def bounds(self) -> list[Interval]:
        """Where anything may have changed, by the bounds of the files alone."""
        return coalesce([*(f.span for f in (*self.removed_files, *self.added_files)), *self.deleted_spans])


def diff_snapshots(trades: Table, before: int | None, after: int) -> SnapshotDiff:
    """Compare two snapshots of trades, from metadata alone.

    Files that `replace` snapshots (compaction) only moved are left out, as far as the history still tells.

    Args:
        trades: the trades table, its metadata knowing `after`.
        before: the snapshot that candles are equal to; None where there is none.
        after: the snapshot that they shall be equal to.
    """
    if before is None:
        return SnapshotDiff(reason="the table has no watermark yet")
    if before == after:
        return SnapshotDiff()
    if trades.metadata.snapshot_by_id(before) is None:
        return SnapshotDiff(
            reason=f"the trades snapshot of the watermark, {before}, has expired or is of another table"
        )
    gone, come = diff_files(trades, before, after)
    spans = _deleted_spans(trades, [f for f in (*gone, *come) if f.is_delete], (before, after))
    if spans is None:
        return SnapshotDiff(
            reason="delete files were added or removed whose rows cannot be told from metadata"
        )
    spans += _spans_with_deletes(trades, before, gone) + _spans_with_deletes(trades, after, come)
    moved = RewrittenFiles.find(trades, before, after)
    gone, come = moved.exclude_rewrites(
        [f for f in gone if not f.is_delete], [f for f in come if not f.is_delete]
    )
    gone, come = ([f for f in files if not f.has_only_impossible_times] for files in (gone, come))
    return SnapshotDiff(tuple(gone), tuple(come), (*spans, *_newly_possible(trades, before)))


def trades_spans(trades: Table, snapshot_id: int | None) -> list[Interval]:
    """Where there are trades at a snapshot, to the bounds of each data file."""
    files = live_files(trades, snapshot_id)
    return coalesce(f.span for f in files if not f.is_delete and not f.has_only_impossible_times)


@dataclass(frozen=True)
class DirtyWindows:
    """Windows that may have changed.

    Attributes:
        intervals: whole windows, coalesced.
        files_read: trades files that were opened to find them.
    """

    intervals: tuple[Interval, ...]
    files_read: int


def find_dirty_windows(trades: Table, found: SnapshotDiff, timeframe: Timeframe) -> DirtyWindows:
    """The windows in which rows differ, as closely as reading the changed files can tell.

    A copy-on-write change replaces whole files: where those gone and come can both be read, only rows that
    are not in both count. Files that are large, no longer there, or of one window count with their bounds.
    """
    spans, rows, opened = list(found.deleted_spans), 0, 0
    for gone, come in _group_overlapping(found):
        files = [*gone, *come]
        size = sum(f.file.record_count for f in files)
        bounds = [f.span for f in files]
        few = rows + size <= MAX_ROWS and opened + len(files) <= MAX_FILES
        one_window = timeframe.align(bounds) == [timeframe.window(files[0].span.start)]
        told = is_covered(found.deleted_spans, bounds)
        frames = (
            _read_files(trades, files, whole=bool(gone and come))
            if few and not one_window and not told
            else None
        )
        if frames is None:
            spans += bounds
        else:
            rows, opened = rows + size, opened + len(files)
            spans += _changed_window_starts(frames[: len(gone)], frames[len(gone) :], timeframe)
    return DirtyWindows(tuple(timeframe.align(spans)), opened)


def _group_overlapping(found: SnapshotDiff) -> list[tuple[list[LiveFile], list[LiveFile]]]:
    """The changed files by connected spans of time: only files that overlap can hold the same rows."""
    groups: list[tuple[list[LiveFile], list[LiveFile]]] = []
    for span in found.bounds:
        gone = [f for f in found.removed_files if f.span.intersect(span)]
        come = [f for f in found.added_files if f.span.intersect(span)]
        if gone:
            groups.append((gone, come))
        else:
            groups.extend(([], [f]) for f in come)
    return groups


def _read_files(trades: Table, files: Sequence[LiveFile], *, whole: bool) -> list[pl.DataFrame] | None:
    """The files' rows, or only their times, as microseconds in `TRADE_TIME_COLUMN`, whoever's table it is.

    Rows of impossible times are left out, as they are in no window. None where a file is no longer there, or
    does not say which of its columns is which.
    """
    time = find_time_column(trades, TRADE_TIME_COLUMN)
    names = _value_columns(trades) if whole else [time.field.name]
    scan = ArrowScan(trades.metadata, trades.io, trades.schema().select(*names), AlwaysTrue())
    try:
        frames = [pl.DataFrame(scan.to_table([FileScanTask(f.file)])) for f in files]
    except (FileNotFoundError, ValueError):
        return None
    times = possible_trade_times()
    inside = pl.col(TRADE_TIME_COLUMN).is_between(to_micros(times.start), to_micros(times.last))
    return [_add_time(time, frame).filter(inside) for frame in frames]


def _add_time(time: TimeColumn, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its times as microseconds, and the other columns by number: theirs may have any name."""
    name = time.field.name
    others = {f"{i}": frame[column] for i, column in enumerate(frame.columns) if column != name}
    return pl.DataFrame({TRADE_TIME_COLUMN: time.micros(frame[name]), **others})


def _value_columns(trades: Table) -> list[str]:
    """The columns in which a trade is another one, if they differ."""
    if isinstance(trades, ExternalTrades):
        return [field.name for ours in trades.columns if (field := trades.field(ours))]
    return [field.name for field in trades.schema().fields if field.name != "ingested_at"]


def _changed_window_starts(
    gone: Sequence[pl.DataFrame], come: Sequence[pl.DataFrame], timeframe: Timeframe
) -> list[Interval]:
    rows = pl.concat([*gone, *come])
    if gone and come:
        sign = pl.concat(
            [pl.repeat(-1, sum(map(len, gone)), eager=True), pl.repeat(1, sum(map(len, come)), eager=True)]
        )
        counted = rows.with_columns(sign.alias("sign")).group_by(rows.columns).agg(pl.col("sign").sum())
        rows = counted.filter(pl.col("sign") != 0)
    micros = rows[TRADE_TIME_COLUMN]
    starts = (micros - micros % timeframe.micros).unique()
    return coalesce(timeframe.window(from_micros(start)) for start in starts)


def _newly_possible(trades: Table, before: int) -> list[Interval]:
    """Where rows of an earlier snapshot may lie that were ahead of all possible times then, and are not now.

    The snapshot's own time is the earliest at which candles can have been made of it.
    """
    snapshot = trades.metadata.snapshot_by_id(before)
    assert snapshot is not None
    now = possible_trade_times()
    then = possible_trade_times(
        datetime.fromtimestamp(min(snapshot.timestamp_ms / 1000, _MAX_CLOCK_SECONDS), UTC)
    )
    if then.end >= now.end:
        return []
    late = Interval(then.end, now.end)
    files = live_files(trades, before)
    return [due for f in files if not f.is_delete and (due := f.span.intersect(late))]


def _spans_with_deletes(trades: Table, snapshot: int, files: Sequence[LiveFile]) -> list[Interval]:
    """Where those data files lie on which delete files of a snapshot bear: reading them raw says nothing."""
    deletes = RowDeletes.from_snapshot(trades, snapshot)
    return [f.span for f in files if not f.is_delete and deletes.deletes_for(f.file, f.sequence)]


def _deleted_spans(
    trades: Table, deletes: Sequence[LiveFile], snapshots: Iterable[int]
) -> list[Interval] | None:
    """Where delete files may have deleted rows; None where that may be anywhere."""
    if not deletes:
        return []
    data = [f for s in snapshots for f in live_files(trades, s) if not f.is_delete]
    by_path = {f.path: f.span for f in data}
    spans: list[Interval] = []
    for delete in deletes:
        path = deleted_file(delete.file)
        if path is not None:
            if path in by_path:
                spans.append(by_path[path])
            continue
        same = [f.span for f in data if f.file.partition == delete.file.partition]
        if delete.file.spec_id != trades.spec().spec_id or not trades.spec().fields:
            return None
        spans += same
    return spans
