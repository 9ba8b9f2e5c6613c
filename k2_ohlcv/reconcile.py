"""The one operation: make windows of a candle table equal to the trades, in atomic commits.

Everything else only chooses the intervals. Here they are whole partitions (`rebuild`).
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl
import structlog
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.domain.frame import finish
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.domain.window import Interval, coalesce, covers, intersect_all
from k2_ohlcv.engine import rollup
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.candles import CandleChange, Stored
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.changes import dirty_spans, trades_spans
from k2_ohlcv.lake.commit import CONFLICTS, Change, commit
from k2_ohlcv.lake.files import live_files
from k2_ohlcv.lake.watermark import Watermark

#: How often a commit that lost a race is tried anew. Another writer holds the table for well under a second.
ATTEMPTS = 8
#: Bounds of what one commit handles, so that memory stays bounded: partitions, and trades read.
_CHUNK_PARTITIONS = 31
_CHUNK_TRADES = 25_000_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class PartitionReport:
    """What became of one partition: windows by fate, rows it has now, trades that they were made from."""

    partition: Interval
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    trades: int = 0

    @property
    def rows(self) -> int:
        """Windows of the reconciled intervals that the partition has now."""
        return self.added + self.changed + self.unchanged


@dataclass(frozen=True)
class Report:
    """What one reconciliation of a table did.

    Attributes:
        timeframe: the table.
        trades_snapshot: the trades snapshot it was made equal to; None where there are no trades at all.
        candles_snapshot: the candle table's snapshot afterwards.
        committed: whether any commit was made, be it of the watermark alone.
        watermark_moved: whether the watermark now says `trades_snapshot`.
        seconds: wall time, retries included.
        partitions: a report for each partition that was looked at and has or had windows.
    """

    timeframe: Timeframe
    trades_snapshot: int | None
    candles_snapshot: int | None
    committed: bool
    watermark_moved: bool
    seconds: float
    partitions: tuple[PartitionReport, ...]

    @property
    def added(self) -> int:
        """Windows that were not there before."""
        return sum(p.added for p in self.partitions)

    @property
    def changed(self) -> int:
        """Windows whose values changed."""
        return sum(p.changed for p in self.partitions)

    @property
    def removed(self) -> int:
        """Rows that had no trades behind them, were off the grid, or repeated a key."""
        return sum(p.removed for p in self.partitions)

    @property
    def unchanged(self) -> int:
        """Windows that were right already."""
        return sum(p.unchanged for p in self.partitions)

    @property
    def trades_read(self) -> int:
        """Trades in the reconciled windows."""
        return sum(p.trades for p in self.partitions)


def rebuild(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    intervals: Sequence[Interval] | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Make whole partitions of a candle table equal to the trades as they are now.

    Args:
        lake: where the tables are.
        engine: the session to compute in.
        timeframe: the candle table.
        intervals: what to rebuild, widened to whole partitions; None is every partition that has trades or
            candles.
        progress: told in words what is being done.

    Raises:
        GateError: the candles break an invariant. Nothing of that commit is visible.
        CommitConflictError: other writers won every attempt.
    """
    started = time.monotonic()
    for attempt in range(ATTEMPTS):
        try:
            report = _rebuild_once(lake, engine, timeframe, intervals, progress or (lambda _: None))
        except CONFLICTS as conflict:
            _log.warning("conflict", table=timeframe.table, attempt=attempt + 1, error=str(conflict))
            time.sleep(random.uniform(0.05, 0.2) * 2**attempt)  # noqa: S311 - a pause, not a secret
        else:
            return replace(report, seconds=time.monotonic() - started)
    raise CommitConflictError(
        f"other writers committed to {timeframe.table} during each of {ATTEMPTS} attempts; nothing is lost, "
        "run it again when fewer write at once"
    )


def _rebuild_once(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    intervals: Sequence[Interval] | None,
    progress: Callable[[str], None],
) -> Report:
    # The candle table first, then the pin: whoever commits candles after our load makes our commit fail,
    # and whoever committed before it pinned no newer trades than we do.
    candles = lake.candles(timeframe)
    trades = lake.trades()
    spans = trades_spans(trades, _current(trades))
    held = [f.span for f in live_files(candles, "window_start", timeframe.grain, _current(candles))]
    chosen = timeframe.grain.partitions(spans + held if intervals is None else intervals)
    occupied = set(timeframe.grain.partitions(spans + held))
    work = _Work(engine, timeframe, trades, _current(trades), Grain.DAY.partitions(spans))
    chunks = list(_chunks([p for p in chosen if p in occupied], trades))
    moved = _covers_all_dirty(candles, trades, timeframe, chosen, spans + held)
    partitions: list[PartitionReport] = []
    committed = False
    for done, chunk in enumerate(chunks or [[]], start=1):
        progress(f"{timeframe.table}: {len(partitions)} of {len(occupied.intersection(chosen))} partitions")
        change = work.change(candles, chunk) if chunk else None
        watermark = moved if done >= len(chunks) else None
        step = _to_commit(candles, change, watermark)
        if step is not None:
            candles = commit(candles, step)
            committed = True
        if change is not None:
            partitions.extend(work.reports(change, chunk))
    return Report(
        timeframe, work.snapshot, _current(candles), committed, moved is not None, 0.0, tuple(partitions)
    )


def _current(table: Table) -> int | None:
    snapshot = table.current_snapshot()
    return snapshot.snapshot_id if snapshot else None


@dataclass
class _Work:
    """One attempt: everything is computed at one pinned trades snapshot.

    `days` are those that have trades: a month asks only for these, and so for what a scan for the shorter
    timeframes of the same run has found already.
    """

    engine: Engine
    timeframe: Timeframe
    trades: Table
    snapshot: int | None
    days: Sequence[Interval]
    counts: pl.DataFrame | None = None

    def change(self, candles: Table, intervals: Sequence[Interval]) -> CandleChange:
        """Compute some windows and compare them with the table as it was loaded."""
        intervals = coalesce(intervals)
        if self.snapshot is None:
            windows = rollup.WINDOWS.empty_table()
        else:
            wanted = intersect_all(intervals, self.days)
            windows = rollup.windows(self.engine, self.trades, self.snapshot, self.timeframe, wanted)
        computed = finish(windows, self.timeframe)
        self.counts = computed.select("window_start", "trade_count")
        return Stored.load(candles, self.timeframe, intervals).change(computed, intervals, datetime.now(UTC))

    def reports(self, change: CandleChange, chunk: Sequence[Interval]) -> Iterator[PartitionReport]:
        """A report for each partition of a chunk."""
        assert self.counts is not None
        start = pl.col("window_start").dt.truncate("1d" if self.timeframe.grain is Grain.DAY else "1mo")
        fates = change.fates.group_by(start, "fate").len()
        trades = dict(self.counts.group_by(start).agg(pl.col("trade_count").sum()).iter_rows())
        by_partition: dict[datetime, dict[str, int]] = {}
        for partition, fate, count in fates.iter_rows():
            by_partition.setdefault(partition, {})[fate] = count
        for partition in chunk:
            yield PartitionReport(
                partition, **by_partition.get(partition.start, {}), trades=trades.get(partition.start, 0)
            )


def _to_commit(candles: Table, change: CandleChange | None, watermark: Watermark | None) -> Change | None:
    """The commit that is due, or None: a watermark that is already current and candles that are right."""
    properties = watermark.properties() if watermark and watermark != Watermark.of(candles) else {}
    if change is not None and not change.is_empty:
        return change.to_commit(properties, {})
    return Change(properties=properties) if properties else None


def _covers_all_dirty(
    candles: Table,
    trades: Table,
    timeframe: Timeframe,
    chosen: Sequence[Interval],
    everything: Sequence[Interval],
) -> Watermark | None:
    """The new watermark, where the chosen partitions cover all that is dirty; else None."""
    current = _current(trades)
    if current is None:
        return None
    before = Watermark.of(candles)
    dirty = dirty_spans(trades, before.snapshot_id, current) if before else None
    if not covers(chosen, timeframe.align(everything if dirty is None else dirty)):
        return None
    return Watermark(current, _head(trades, current))


def _head(trades: Table, snapshot: int) -> datetime | None:
    """The newest trade at a snapshot, by the files' bounds."""
    return max((span.last for span in trades_spans(trades, snapshot)), default=None)


def _chunks(partitions: Sequence[Interval], trades: Table) -> Iterator[list[Interval]]:
    """The partitions in runs that one commit can handle in bounded memory."""
    snapshot = _current(trades)
    files = live_files(trades, "timestamp", Grain.DAY, snapshot)
    chunk: list[Interval] = []
    weight = 0
    for partition in partitions:
        rows = sum(f.file.record_count for f in files if f.span.intersect(partition))
        if chunk and (len(chunk) >= _CHUNK_PARTITIONS or weight + rows > _CHUNK_TRADES):
            yield chunk
            chunk, weight = [], 0
        chunk.append(partition)
        weight += rows
    if chunk:
        yield chunk
