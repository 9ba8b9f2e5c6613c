"""What a rebuild or a refresh has to do: which windows, and whether the watermark moves. Does nothing.

Made from the two tables as they were loaded, so that a plan and the commits that carry it out share one base.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pyiceberg.table import Table

from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.domain.window import Interval, bound, coalesce, covers
from k2_ohlcv.lake.changes import changes, dirty_windows, trades_spans
from k2_ohlcv.lake.files import live_files
from k2_ohlcv.lake.lines import Lines, head_of
from k2_ohlcv.lake.watermark import Watermark

#: Scattered windows are read as so many intervals at the most, by filling the narrowest gaps between them.
MOST_INTERVALS = 64


@dataclass(frozen=True)
class Plan:
    """What is to be done to a candle table.

    Attributes:
        timeframe: the table.
        trades_from: the trades snapshot of its watermark; None where it has none.
        trades_to: the trades snapshot to make it equal to; None where trades have none.
        intervals: whole windows to reconcile, in order, disjoint.
        days: the days with trades that the intervals lie in: elsewhere there is nothing to read.
        watermark: what to set with the last commit; None leaves it.
        reason: why everything is dirty, where it is; None where what changed is known.
        files_changed: trades files in which the two snapshots differ.
        files_read: trades files that are read, to find the windows and to compute them.
        behind: windows that would have been reconciled too, but lie behind the line of frozen trades or of
            expired candles, and stay as they are.
    """

    timeframe: Timeframe
    trades_from: int | None
    trades_to: int | None
    intervals: tuple[Interval, ...]
    days: tuple[Interval, ...]
    watermark: Watermark | None
    reason: str | None = None
    files_changed: int = 0
    files_read: int = 0
    behind: int = 0

    @property
    def is_current(self) -> bool:
        """Whether the table's watermark is at the current trades already."""
        return self.trades_from == self.trades_to

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
            "behind": self.behind,
        }

    def lines(self) -> list[str]:
        """The plan in words."""
        table = self.timeframe.table
        if self.is_current:
            return [f"{table}: up to date with trades snapshot {self.trades_to}: nothing to do."]
        why = (
            self.reason
            or f"{self.files_changed} trades files differ from those of snapshot {self.trades_from}"
        )
        return [
            f"{table}: {why}.",
            f"  {len(self.intervals)} intervals in {len(self.partitions)} partitions are made equal to "
            f"trades snapshot {self.trades_to}, reading {self.files_read} trades files:",
            *(f"    {interval}" for interval in self.intervals[:10]),
            *([f"    and {len(self.intervals) - 10} more"] if len(self.intervals) > 10 else []),
            *([f"  {self.behind:,} windows are past retention and stay as they are."] if self.behind else []),
        ]


def plan_rebuild(
    candles: Table, trades: Table, timeframe: Timeframe, intervals: Sequence[Interval] | None
) -> Plan:
    """Whole partitions, those that the intervals touch or all that have trades or candles.

    What lies behind the lines of retention stays as it is. The watermark moves where the partitions cover all
    that is dirty.

    Raises:
        UsageError: partitions were asked for that lie behind a line.
    """
    spans, occupied = _occupied(candles, trades, timeframe)
    lines = Lines.of(candles, trades, timeframe)
    chosen = occupied if intervals is None else timeframe.grain.partitions(intervals)
    if intervals is not None:
        lines.refuse(chosen)
    since, current = Watermark.of(candles), trades.metadata.current_snapshot_id
    moved = None
    if current is not None:
        found = changes(trades, since.snapshot_id if since else None, current)
        dirty = timeframe.align(found.bounds) if found.reason is None else occupied
        if covers(chosen, lines.ahead(dirty)):
            moved = Watermark(current, head_of(candles, trades))
    there = set(occupied)
    work = lines.ahead(p for p in chosen if p in there)
    return Plan(
        timeframe=timeframe,
        trades_from=since.snapshot_id if since else None,
        trades_to=current,
        intervals=tuple(work),
        days=tuple(coalesce(Grain.DAY.partitions(spans))),
        watermark=moved,
        files_read=len(_spans(trades, current, work)),
        behind=lines.windows_behind(p for p in chosen if p in there),
    )


def plan_refresh(candles: Table, trades: Table, timeframe: Timeframe) -> Plan:
    """The windows that may differ since the watermark; everything where that cannot be known.

    Not those behind the lines of retention: a late trade does not bring back what has been dropped, nor does
    what has been expired count as deleted.
    """
    since, current = Watermark.of(candles), trades.metadata.current_snapshot_id
    before = since.snapshot_id if since else None
    found = changes(trades, before, current) if current is not None else None
    reason = (found.reason or "") if found else "there are no trades"
    dirty = dirty_windows(trades, found, timeframe) if found and not reason else None
    windows = dirty.intervals if dirty else _occupied(candles, trades, timeframe)[1]
    opened = dirty.files_read if dirty else 0
    lines = Lines.of(candles, trades, timeframe)
    ahead = lines.ahead(windows)
    intervals = bound(ahead, MOST_INTERVALS) if not reason else ahead
    spans = _spans(trades, current, intervals)
    return Plan(
        timeframe=timeframe,
        trades_from=before,
        trades_to=current,
        intervals=tuple(intervals),
        days=tuple(coalesce(Grain.DAY.partitions(spans))),
        watermark=Watermark(current, head_of(candles, trades)) if current is not None else None,
        reason=reason or None,
        files_changed=len(found.gone) + len(found.come) if found else 0,
        files_read=opened + len(spans),
        behind=lines.windows_behind(windows),
    )


def _occupied(candles: Table, trades: Table, timeframe: Timeframe) -> tuple[list[Interval], list[Interval]]:
    """Where there are trades, and the partitions that have trades or candles: everything."""
    spans = trades_spans(trades, trades.metadata.current_snapshot_id)
    files = live_files(candles, "window_start", timeframe.grain, candles.metadata.current_snapshot_id)
    return spans, timeframe.grain.partitions([*spans, *(f.span for f in files)])


def _spans(trades: Table, snapshot: int | None, intervals: Sequence[Interval]) -> list[Interval]:
    """The spans of those files of trades that may have some in the intervals."""
    files = live_files(trades, "timestamp", Grain.DAY, snapshot)
    return [f.span for f in files if not f.is_delete and any(map(f.span.intersect, intervals))]
