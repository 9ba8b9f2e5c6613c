"""The plan of a rebuild or a refresh, as a value with a text for people.

Choosing the windows is in `planning`, splitting a plan into commits in `plan_chunks`.
"""

from dataclasses import dataclass

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.watermark import Watermark

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
