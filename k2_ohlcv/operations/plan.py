"""The plan of a rebuild or a refresh: the windows to reconcile, and the watermark to start with.

A plan comes from two loaded tables. The commits of the plan use the same loaded tables as their base.
Computing and committing windows is in `reconcile`, splitting a plan into commits in `plan_chunks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import (
    Interval,
    IntervalSet,
    coalesce,
    intersect_all,
    merge_to_at_most,
    subtract,
)
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.history_bounds import (
    HistoryBounds,
    frozen_before_update,
    latest_trade_at,
    read_frozen_before,
)
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges, reject_missing_trades
from k2_ohlcv.lake.metadata.snapshot_diff import find_dirty_windows, trades_spans
from k2_ohlcv.lake.watermark import Watermark

#: The maximum number of intervals in a plan. More intervals are merged across the narrowest gaps.
MAX_INTERVALS = 64
#: The maximum number of intervals or partitions that a text lists.
_MAX_LISTED = 10


@dataclass(frozen=True)
class Plan:
    """The windows of one candle table to reconcile.

    Attributes:
        timeframe: the timeframe of the table.
        trades_from: the trades snapshot of the watermark; None without a watermark.
        trades_to: the trades snapshot to reconcile with; None if trades have no snapshot.
        intervals: whole windows that have all windows to reconcile, in order, disjoint.
        selection: the windows to reconcile.
        days: the days of trades files that overlap the intervals. Other days have no trades to read.
        start: the watermark at `trades_to`, with all windows open that may differ from that snapshot. Each
            commit closes the intervals that it reconciles. None if trades have no snapshot.
        is_current: whether the table already equals the current trades.
        reason: why all windows are dirty; None if the dirty windows are known.
        files_changed: the number of trades files that differ between the two snapshots.
        files_read: the number of trades files to read, to find dirty windows and to compute windows.
        skipped: the number of dirty windows before `frozen_before` or `expired_before`. Such windows stay
            unchanged.
        changed_behind_bounds: partitions before one of these bounds that another writer changed. Their trades
            have expired, so no run can compute them again.
        properties: table properties that the first commit sets.
    """

    timeframe: Timeframe
    trades_from: int | None
    trades_to: int | None
    intervals: tuple[Interval, ...]
    selection: WindowSelection
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
        """The partitions of the intervals."""
        return self.timeframe.grain.partitions(self.intervals)

    def as_json(self) -> dict[str, object]:
        """Return the plan as one JSON object."""
        return {
            "table": self.timeframe.table,
            "timeframe": self.timeframe.name,
            "from": self.trades_from,
            "to": self.trades_to,
            "dirty": [[i.start.isoformat(), i.end.isoformat()] for i in self.intervals],
            "partitions": [self.timeframe.grain.key(p) for p in self.partitions],
            "market_windows": self.selection.pairs.height if not self.selection.intervals else None,
            "reason": self.reason,
            "files_changed": self.files_changed,
            "files_read": self.files_read,
            "behind": self.skipped,
            "damaged": self._changed_keys(),
        }

    def _changed_keys(self) -> list[str]:
        """The keys of the partitions in `changed_behind_bounds`."""
        grain = self.timeframe.grain
        return [grain.key(p) for p in grain.partitions(self.changed_behind_bounds)]

    def lines(self) -> list[str]:
        """Describe the plan in lines of text."""
        table = self.timeframe.table
        if self.is_current:
            return [f"{table}: up to date with trades snapshot {self.trades_to}: nothing to do."]
        more = len(self.intervals) - _MAX_LISTED
        lines = [
            f"{table}: {self.reason or self._change_text()}.",
            f"  {self._windows_text()} in {len(self.intervals)} intervals of {len(self.partitions)} "
            f"partitions are made equal to trades snapshot {self.trades_to}, reading {self.files_read} "
            "trades files:",
            *(f"    {interval}" for interval in self.intervals[:_MAX_LISTED]),
        ]
        if more > 0:
            lines.append(f"    and {more} more")
        if self.skipped:
            lines.append(
                f"  {self.skipped:,} windows are before frozen_before or expired_before and stay unchanged."
            )
        if self.changed_behind_bounds:
            lines.append(f"  {self.changed_behind_bounds_text}.")
        return lines

    @property
    def changed_behind_bounds_text(self) -> str:
        """Describe the changes of other writers to candles that no run can compute again."""
        keys = ", ".join(self._changed_keys()[:_MAX_LISTED])
        return (
            f"another writer changed {self.timeframe.table} in {keys}. The trades there have expired: these "
            "candles cannot be computed again. If they are wrong, roll the table back to an earlier snapshot"
        )

    def _windows_text(self) -> str:
        """Describe which windows of the intervals are reconciled."""
        pairs = self.selection.pairs
        listed = f"{pairs.height:,} windows of {pairs.n_unique(['exchange', 'symbol']):,} markets"
        if not self.selection.intervals:
            return listed
        return "all windows" if pairs.is_empty() else f"all windows of some, and {listed},"

    def _change_text(self) -> str:
        """Describe why windows are dirty."""
        if self.trades_from == self.trades_to:
            return "an earlier run left windows open, or another writer changed them"
        return f"{self.files_changed} trades files differ from those of snapshot {self.trades_from}"


def plan_rebuild(
    candles: Table, trades: Table, timeframe: Timeframe, intervals: Sequence[Interval] | None
) -> Plan:
    """Plan the rebuild of the partitions that overlap the intervals, or of all partitions if None.

    Partitions without trades and candles are left out. Windows before `frozen_before` or `expired_before`
    stay unchanged. Load the trades table after the candle table.

    Raises:
        MissingTradesError: candles exist, but there are no trades.
        UsageError: chosen partitions are before `frozen_before` or `expired_before`.
    """
    reject_missing_trades(candles, trades)
    spans, occupied = _all_data(candles, trades, timeframe)
    bounds = HistoryBounds.from_tables(candles, trades, timeframe)
    chosen = occupied if intervals is None else timeframe.grain.partitions(intervals)
    if intervals is not None:
        bounds.reject_outside(chosen)
    pending = PendingChanges.find(candles, trades)
    dirty = occupied if pending.reason else timeframe.align(pending.bounds)
    partitions = sorted({*chosen} & {*occupied})
    empty = {*chosen} - {*occupied}  # no trades and no candles, so nothing differs
    intervals = bounds.clip(partitions)
    return Plan(
        timeframe=timeframe,
        trades_from=pending.watermark.snapshot_id if pending.watermark else None,
        trades_to=pending.current,
        intervals=tuple(intervals),
        selection=WindowSelection(tuple(intervals)),
        days=tuple(coalesce(Grain.DAY.partitions(spans))),
        start=_starting_watermark(pending, candles, trades, subtract(bounds.clip(dirty), empty)),
        files_read=len(_spans_of_files(trades, pending.current, intervals)),
        skipped=bounds.count_outside(partitions),
        changed_behind_bounds=tuple(bounds.outside(pending.watermark.touched)) if pending.watermark else (),
        properties=tuple(frozen_before_update(candles, trades).items()),
    )


def plan_refresh(candles: Table, trades: Table, timeframe: Timeframe) -> Plan:
    """Plan a refresh: the windows that may differ from the trades since the watermark.

    All windows are dirty if the changes since the watermark cannot be determined. Windows before
    `frozen_before` or `expired_before` stay unchanged. Late trades therefore do not restore expired candles.
    Expired trades do not count as deleted trades. Load the trades table after the candle table.

    Raises:
        MissingTradesError: candles exist, but there are no trades.
    """
    reject_missing_trades(candles, trades)
    pending = PendingChanges.find(candles, trades)
    bounds = HistoryBounds.from_tables(candles, trades, timeframe)
    dirty = None
    if pending.reason:
        windows = _all_data(candles, trades, timeframe)[1]
        intervals = bounds.clip(windows)
        selection = WindowSelection(tuple(intervals))
    else:
        dirty = find_dirty_windows(trades, pending.diff, timeframe, pending.open_intervals)
        windows = dirty.selection.cover(timeframe)
        intervals = merge_to_at_most(bounds.clip(windows), MAX_INTERVALS)
        selection = dirty.selection.clip(bounds.clip(windows))
    spans = _spans_of_files(trades, pending.current, intervals)
    return Plan(
        timeframe=timeframe,
        trades_from=pending.watermark.snapshot_id if pending.watermark else None,
        trades_to=pending.current,
        intervals=tuple(intervals),
        selection=selection,
        days=tuple(coalesce(Grain.DAY.partitions(spans))),
        start=_starting_watermark(pending, candles, trades, intervals),
        is_current=pending.is_up_to_date or not (candles.current_snapshot() or intervals),
        reason=pending.reason,
        files_changed=len(pending.diff.removed_files) + len(pending.diff.added_files),
        files_read=(dirty.files_read if dirty else 0) + len(spans),
        skipped=bounds.count_outside(windows),
        changed_behind_bounds=tuple(bounds.outside(pending.watermark.touched)) if pending.watermark else (),
        properties=tuple(frozen_before_update(candles, trades).items()),
    )


def _starting_watermark(
    pending: PendingChanges, candles: Table, trades: Table, may_differ: Sequence[Interval]
) -> Watermark | None:
    """Build the watermark at the current trades snapshot, before any window is reconciled."""
    if pending.current is None:
        return None
    head, open_intervals = latest_trade_at(candles, trades), tuple(may_differ)
    mark = pending.watermark or Watermark(pending.current, head, pending.fingerprint)
    return replace(
        mark,
        snapshot_id=pending.current,
        latest_trade_at=head,
        open_intervals=open_intervals,
        # No run can compute a refused window again once it is before a history bound.
        refused=tuple(r for r in mark.refused if intersect_all([r.window], open_intervals)),
        touched=tuple(intersect_all(mark.touched, open_intervals)),
        until=possible_trade_times().end,
        frozen_before=read_frozen_before(candles, trades, datetime.now(UTC)),
    )


def _all_data(candles: Table, trades: Table, timeframe: Timeframe) -> tuple[list[Interval], list[Interval]]:
    """Return the spans of all trades files, and the partitions that have trades or candles."""
    spans = trades_spans(trades, trades.metadata.current_snapshot_id)
    files = live_files(candles, candles.metadata.current_snapshot_id)
    return spans, timeframe.grain.partitions([*spans, *(f.span for f in files)])


def _spans_of_files(trades: Table, snapshot: int | None, intervals: Sequence[Interval]) -> list[Interval]:
    """Return the spans of the trades files that overlap the intervals."""
    files = live_files(trades, snapshot)
    chosen = IntervalSet(intervals)
    return [f.span for f in files if not f.is_delete and chosen.has_overlap(f.span)]
