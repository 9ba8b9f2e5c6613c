"""Plans a rebuild or a refresh: chooses the windows to reconcile, and the watermark to start with.

A plan comes from two loaded tables. The commits of the plan use the same loaded tables as their base.
Computing and committing windows is in `reconcile`. The plan as a value, and its text, are in `plan`.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import (
    Interval,
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
from k2_ohlcv.lake.metadata.dirty_windows import find_dirty_windows
from k2_ohlcv.lake.metadata.file_search import data_files_within
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges, reject_missing_trades
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.plan import Plan

#: The maximum number of intervals in a plan. More intervals are merged across the narrowest gaps.
MAX_INTERVALS = 64


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
    rebuilt = bounds.clip(partitions)
    return _build_plan(
        pending,
        (candles, trades),
        bounds,
        selection=WindowSelection(tuple(rebuilt)),
        intervals=tuple(rebuilt),
        days=tuple(coalesce(Grain.DAY.partitions(spans))),
        start=_starting_watermark(pending, candles, trades, subtract(bounds.clip(dirty), empty)),
        files_read=len(_spans_of_files(trades, pending.current, rebuilt)),
        skipped=bounds.count_outside(partitions),
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
    if pending.reason:
        windows, files_read = _all_data(candles, trades, timeframe)[1], 0
        intervals = bounds.clip(windows)
        selection = WindowSelection(tuple(intervals))
    else:
        dirty = find_dirty_windows(trades, pending.diff, timeframe, pending.open_intervals)
        windows, files_read = dirty.selection.cover(timeframe), dirty.files_read
        intervals = merge_to_at_most(bounds.clip(windows), MAX_INTERVALS)
        selection = dirty.selection.clip(bounds.clip(windows))
    spans = _spans_of_files(trades, pending.current, intervals)
    return _build_plan(
        pending,
        (candles, trades),
        bounds,
        selection=selection,
        intervals=tuple(intervals),
        days=tuple(coalesce(Grain.DAY.partitions(spans))),
        start=_starting_watermark(pending, candles, trades, intervals),
        is_current=pending.is_up_to_date or not (candles.current_snapshot() or intervals),
        reason=pending.reason,
        files_changed=len(pending.diff.removed_files) + len(pending.diff.added_files),
        files_read=files_read + len(spans),
        skipped=bounds.count_outside(windows),
    )


def _build_plan(
    pending: PendingChanges, tables: tuple[Table, Table], bounds: HistoryBounds, **fields: Any
) -> Plan:
    """Build a plan from the fields that the two kinds of plan fill in their own way."""
    return Plan(
        timeframe=bounds.timeframe,
        trades_from=pending.watermark.snapshot_id if pending.watermark else None,
        trades_to=pending.current,
        changed_behind_bounds=tuple(bounds.outside(pending.watermark.touched)) if pending.watermark else (),
        properties=tuple(frozen_before_update(*tables).items()),
        **fields,
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
    return [f.span for f in data_files_within(trades, snapshot, intervals)]
