"""What a rebuild or a refresh has to do: which windows, and what the watermark says then. Does nothing.

Made from the two tables as they were loaded, so that a plan and the commits that carry it out share one base.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all, merge_to_at_most, subtract
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake.history_bounds import (
    HistoryBounds,
    frozen_before_update,
    latest_trade_at,
    read_frozen_before,
)
from k2_ohlcv.lake.metadata.files import LiveFile, live_files
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges, reject_missing_trades
from k2_ohlcv.lake.metadata.snapshot_diff import find_dirty_windows, trades_spans
from k2_ohlcv.lake.watermark import Watermark

#: Scattered windows are read as so many intervals at the most, by filling the narrowest gaps between them.
MAX_INTERVALS = 64
#: Bounds of what one commit handles, so that memory stays bounded: partitions, and trades read.
MAX_CHUNK_PARTITIONS = 31
MAX_CHUNK_TRADES = 12_500_000


@dataclass(frozen=True)
class Plan:
    """What is to be done to a candle table.

    Attributes:
        timeframe: the table.
        trades_from: the trades snapshot of its watermark; None where it has none.
        trades_to: the trades snapshot to make it equal to; None where trades have none.
        intervals: whole windows to reconcile, in order, disjoint.
        days: the days with trades that the intervals lie in: elsewhere there is nothing to read.
        start: the watermark at `trades_to` with everything open that may differ there. Each commit closes the
            intervals that it reconciles. None where trades have no snapshot.
        is_current: whether the table is equal to the current trades already.
        reason: why everything is dirty, where it is; None where what changed is known.
        files_changed: trades files in which the two snapshots differ.
        files_read: trades files that are read, to find the windows and to compute them.
        skipped: windows that would have been reconciled too, but lie behind the line of frozen trades or of
            expired candles, and stay as they are.
        changed_behind_bounds: partitions behind a line of retention that another writer touched. Their trades
            are gone, so that nothing can be computed again.
        properties: table properties that the first commit sets.
    """

    timeframe: Timeframe
    trades_from: int | None
    trades_to: int | None
    intervals: tuple[Interval, ...]
    days: tuple[Interval, ...]
    start: Watermark | None
    is_current: bool = False
    reason: str | None = None
    files_changed: int = 0
    files_read: int = 0
    skipped: int = 0
    changed_behind_bounds: tuple[Interval, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()

    @property
    def partitions(self) -> list[Interval]:
        """The partitions that the intervals lie in."""
        return self.timeframe.grain.partitions(self.intervals)

    def as_json(self) -> dict[str, object]:
        """The plan as one JSON object."""
        return {
            "table": self.timeframe.table,
            "timeframe": self.timeframe.name,
            "from": self.trades_from,
            "to": self.trades_to,
            "dirty": [[i.start.isoformat(), i.end.isoformat()] for i in self.intervals],
            "partitions": [self.timeframe.grain.key(p) for p in self.partitions],
            "reason": self.reason,
            "files_changed": self.files_changed,
            "files_read": self.files_read,
            "behind": self.skipped,
            "damaged": [
                self.timeframe.grain.key(p)
                for p in self.timeframe.grain.partitions(self.changed_behind_bounds)
            ],
        }

    def lines(self) -> list[str]:
        """The plan in words."""
        table = self.timeframe.table
        if self.is_current:
            return [f"{table}: up to date with trades snapshot {self.trades_to}: nothing to do."]
        why = self.reason or self._changed()
        return [
            f"{table}: {why}.",
            f"  {len(self.intervals)} intervals in {len(self.partitions)} partitions are made equal to "
            f"trades snapshot {self.trades_to}, reading {self.files_read} trades files:",
            *(f"    {interval}" for interval in self.intervals[:10]),
            *([f"    and {len(self.intervals) - 10} more"] if len(self.intervals) > 10 else []),
            *(
                [f"  {self.skipped:,} windows are past retention and stay as they are."]
                if self.skipped
                else []
            ),
            *([f"  {self.changed_behind_bounds_text}."] if self.changed_behind_bounds else []),
        ]

    @property
    def changed_behind_bounds_text(self) -> str:
        """What another writer did where nothing can be computed again, in words."""
        keys = [
            self.timeframe.grain.key(p) for p in self.timeframe.grain.partitions(self.changed_behind_bounds)
        ]
        return (
            f"another writer changed {self.timeframe.table} in {', '.join(keys[:10])}, where the trades are "
            "gone: these candles cannot be computed again. Roll the table back to a snapshot before, if they "
            "are wrong"
        )

    def _changed(self) -> str:
        """What changed, in words."""
        if self.trades_from == self.trades_to:
            return "windows are open since an earlier run, or another writer touched them"
        return f"{self.files_changed} trades files differ from those of snapshot {self.trades_from}"


def plan_rebuild(
    candles: Table, trades: Table, timeframe: Timeframe, intervals: Sequence[Interval] | None
) -> Plan:
    """Whole partitions, those that the intervals touch or all that have trades or candles.

    What lies behind the lines of retention stays as it is.

    Raises:
        MissingTradesError: the candles were made from trades, and there are none any more.
        UsageError: partitions were asked for that lie behind a line.
    """
    reject_missing_trades(candles, trades)
    spans, occupied = _all_data(candles, trades, timeframe)
    lines = HistoryBounds.from_tables(candles, trades, timeframe)
    chosen = occupied if intervals is None else timeframe.grain.partitions(intervals)
    if intervals is not None:
        lines.reject_outside(chosen)
    todo = PendingChanges.find(candles, trades)
    dirty = occupied if todo.reason else timeframe.align(todo.bounds)
    there = set(occupied)
    whole = [p for p in chosen if p in there]
    work = lines.clip(whole)
    empty = [p for p in chosen if p not in there]  # neither trades nor candles: nothing differs there
    return Plan(
        timeframe=timeframe,
        trades_from=todo.watermark.snapshot_id if todo.watermark else None,
        trades_to=todo.current,
        intervals=tuple(work),
        days=tuple(coalesce(Grain.DAY.partitions(spans))),
        start=_starting_watermark(todo, candles, trades, subtract(lines.clip(dirty), empty)),
        files_read=len(_spans(trades, todo.current, work)),
        skipped=lines.count_outside(whole),
        changed_behind_bounds=tuple(lines.outside(todo.watermark.touched)) if todo.watermark else (),
        properties=tuple(frozen_before_update(candles, trades).items()),
    )


def plan_refresh(candles: Table, trades: Table, timeframe: Timeframe) -> Plan:
    """The windows that may differ since the watermark; everything where that cannot be known.

    Not those behind the lines of retention: a late trade does not bring back what has been dropped, nor does
    what has been expired count as deleted.

    Raises:
        MissingTradesError: the candles were made from trades, and there are none any more.
    """
    reject_missing_trades(candles, trades)
    todo, lines = PendingChanges.find(candles, trades), HistoryBounds.from_tables(candles, trades, timeframe)
    dirty = None if todo.reason else find_dirty_windows(trades, todo.diff, timeframe)
    known = timeframe.align([*dirty.intervals, *todo.open_intervals]) if dirty else []
    windows = known if dirty else _all_data(candles, trades, timeframe)[1]
    ahead = lines.clip(windows)
    intervals = merge_to_at_most(ahead, MAX_INTERVALS) if dirty else ahead
    spans = _spans(trades, todo.current, intervals)
    return Plan(
        timeframe=timeframe,
        trades_from=todo.watermark.snapshot_id if todo.watermark else None,
        trades_to=todo.current,
        intervals=tuple(intervals),
        days=tuple(coalesce(Grain.DAY.partitions(spans))),
        start=_starting_watermark(todo, candles, trades, intervals),
        is_current=todo.is_up_to_date or not (candles.current_snapshot() or intervals),
        reason=todo.reason,
        files_changed=len(todo.diff.removed_files) + len(todo.diff.added_files),
        files_read=(dirty.files_read if dirty else 0) + len(spans),
        skipped=lines.count_outside(windows),
        changed_behind_bounds=tuple(lines.outside(todo.watermark.touched)) if todo.watermark else (),
        properties=tuple(frozen_before_update(candles, trades).items()),
    )


def _starting_watermark(
    todo: PendingChanges, candles: Table, trades: Table, may_differ: Sequence[Interval]
) -> Watermark | None:
    """The watermark at the current trades before anything is reconciled."""
    if todo.current is None:
        return None
    head, may, until = latest_trade_at(candles, trades), tuple(may_differ), possible_trade_times().end
    mark = todo.watermark or Watermark(todo.current, head, todo.fingerprint)
    frozen = read_frozen_before(candles, trades, datetime.now(UTC))
    # What has come to lie behind a line is refused no longer: nobody can mend it any more.
    refused = tuple(r for r in mark.refused if intersect_all([r.window], may))
    touched = tuple(intersect_all(mark.touched, may))
    mark = replace(mark, open_intervals=may, refused=refused, touched=touched)
    return replace(mark, snapshot_id=todo.current, latest_trade_at=head, until=until, frozen_before=frozen)


def _all_data(candles: Table, trades: Table, timeframe: Timeframe) -> tuple[list[Interval], list[Interval]]:
    """Where there are trades, and the partitions that have trades or candles: everything."""
    spans = trades_spans(trades, trades.metadata.current_snapshot_id)
    files = live_files(candles, candles.metadata.current_snapshot_id)
    return spans, timeframe.grain.partitions([*spans, *(f.span for f in files)])


def _spans(trades: Table, snapshot: int | None, intervals: Sequence[Interval]) -> list[Interval]:
    """The spans of those files of trades that may have some in the intervals."""
    files = live_files(trades, snapshot)
    return [f.span for f in files if not f.is_delete and any(map(f.span.intersect, intervals))]


def split_into_chunks(plan: Plan, trades: Table) -> Iterator[list[Interval]]:
    """The intervals of a plan, in parts that one commit can handle in bounded memory.

    Parts are cut between partitions.
    """
    files = live_files(trades, plan.trades_to)
    chunk: list[Interval] = []
    weight, count = 0, 0
    for partition in plan.partitions:
        inside = intersect_all(plan.intervals, [partition])
        # A file that lies across partitions counts with its share of the time.
        rows = int(sum(_share_of_file(f, i) for f in files for i in inside))
        if chunk and (count >= MAX_CHUNK_PARTITIONS or weight + rows > MAX_CHUNK_TRADES):
            yield coalesce(chunk)
            chunk, weight, count = [], 0, 0
        chunk += inside
        weight, count = weight + rows, count + 1
    if chunk:
        yield coalesce(chunk)


def _share_of_file(file: LiveFile, interval: Interval) -> float:
    both = file.span.intersect(interval)
    length = file.span.end - file.span.start
    return file.file.record_count * ((both.end - both.start) / length) if both else 0.0
