"""The one operation: make windows of a candle table equal to the trades, in atomic commits.

Everything else only chooses the intervals (`plan`). Here: the attempts, the commits, and rebuilds of whole
partitions; what changed since the watermark is brought in by `refresh`.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import structlog
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.domain.frame import finish
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.domain.window import Interval, coalesce, intersect_all
from k2_ohlcv.engine import rollup
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.candles import CandleChange, Stored
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import CONFLICTS, Change, commit
from k2_ohlcv.lake.files import LiveFile, live_files
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.plan import Plan, plan_rebuild
from k2_ohlcv.report import PartitionReport, Report

#: How often a commit that lost a race is tried anew. Another writer holds the table for well under a second.
ATTEMPTS = 8
#: Bounds of what one commit handles, so that memory stays bounded: partitions, and trades read.
_CHUNK_PARTITIONS = 31
_CHUNK_TRADES = 12_500_000

_log = structlog.get_logger(__name__)


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

    def choose(candles: Table, trades: Table) -> Plan:
        return plan_rebuild(candles, trades, timeframe, intervals)

    return reconcile(lake, engine, timeframe, choose, progress)


def reconcile(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    choose: Callable[[Table, Table], Plan],
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Carry out the plan chosen for the tables as they are loaded; start over if a race is lost."""
    started = time.monotonic()
    for attempt in range(ATTEMPTS):
        # The candle table first, then the pin: whoever commits candles after our load makes our commit fail,
        # and whoever committed before it pinned no newer trades than we do.
        candles = lake.candles(timeframe)
        base, trades = candles.metadata_location, lake.trades()
        try:
            report = _carry_out(
                engine, candles, trades, choose(candles, trades), progress or (lambda _: None)
            )
        except (*CONFLICTS, FileNotFoundError) as conflict:
            if isinstance(conflict, FileNotFoundError) and not _moved(lake, timeframe, base):
                raise
            _log.warning("conflict", table=timeframe.table, attempt=attempt + 1, error=str(conflict))
            time.sleep(random.uniform(0.05, 0.2) * 2**attempt)  # noqa: S311 - a pause, not a secret
        else:
            return replace(report, seconds=time.monotonic() - started)
    raise CommitConflictError(
        f"other writers committed to {timeframe.table} during each of {ATTEMPTS} attempts; nothing is lost, "
        "run it again when fewer write at once"
    )


def _moved(lake: Lake, timeframe: Timeframe, base: str) -> bool:
    """Whether somebody committed candles since: files of the version that we loaded may be gone by now."""
    return lake.candles(timeframe).metadata_location != base


def _carry_out(
    engine: Engine, candles: Table, trades: Table, plan: Plan, progress: Callable[[str], None]
) -> Report:
    chunks = list(_chunks(plan, trades))
    partitions: list[PartitionReport] = []
    committed = False
    for done, chunk in enumerate(chunks or [[]], start=1):
        progress(f"{plan.timeframe.table}: {len(partitions)} of {len(plan.partitions)} partitions")
        change, computed = _change(engine, candles, trades, plan, chunk) if chunk else (None, None)
        step = _to_commit(candles, change, plan.watermark if done >= len(chunks) else None)
        if step is not None:
            candles = commit(candles, step)
            committed = True
        if change is not None and computed is not None:
            partitions.extend(_reports(plan.timeframe, change, computed, chunk))
    snapshot = candles.metadata.current_snapshot_id
    return Report(plan, snapshot, committed, 0.0, tuple(partitions))


def _change(
    engine: Engine, candles: Table, trades: Table, plan: Plan, chunk: Sequence[Interval]
) -> tuple[CandleChange, pl.DataFrame]:
    """Compute some windows at the pinned snapshot, and compare them with the table as it was loaded.

    Only days that have trades are asked for, so that a month asks for what a scan for the shorter timeframes
    of the same run has found already.
    """
    windows = rollup.WINDOWS.empty_table()
    if plan.trades_to is not None:
        wanted = intersect_all(chunk, plan.days)
        windows = rollup.windows(engine, trades, plan.trades_to, plan.timeframe, wanted)
    computed = finish(windows, plan.timeframe)
    stored = Stored.load(candles, plan.timeframe, chunk)
    return stored.change(computed, chunk, datetime.now(UTC)), computed


def _reports(
    timeframe: Timeframe, change: CandleChange, computed: pl.DataFrame, chunk: Sequence[Interval]
) -> Iterator[PartitionReport]:
    """A report for each partition of a chunk."""
    start = pl.col("window_start").dt.truncate("1d" if timeframe.grain is Grain.DAY else "1mo")
    trades = dict(computed.group_by(start).agg(pl.col("trade_count").sum()).iter_rows())
    fates: dict[datetime, dict[str, int]] = {}
    for partition, fate, count in change.fates.group_by(start, "fate").len().iter_rows():
        fates.setdefault(partition, {})[fate] = count
    for partition in timeframe.grain.partitions(chunk):
        found = fates.get(partition.start, {})
        yield PartitionReport(partition, **found, trades=trades.get(partition.start, 0))


def _to_commit(candles: Table, change: CandleChange | None, watermark: Watermark | None) -> Change | None:
    """The commit that is due, or None: a watermark that is already current and candles that are right."""
    properties = watermark.properties() if watermark and watermark != Watermark.of(candles) else {}
    if change is not None and not change.is_empty:
        return change.to_commit(properties, {})
    return Change(properties=properties) if properties else None


def _chunks(plan: Plan, trades: Table) -> Iterator[list[Interval]]:
    """The intervals in lots that one commit can handle in bounded memory, cut between partitions."""
    files = live_files(trades, "timestamp", Grain.DAY, plan.trades_to)
    chunk: list[Interval] = []
    weight, count = 0, 0
    for partition in plan.partitions:
        inside = intersect_all(plan.intervals, [partition])
        # A file that lies across partitions counts with its share of the time.
        rows = int(sum(_share(f, i) for f in files for i in inside))
        if chunk and (count >= _CHUNK_PARTITIONS or weight + rows > _CHUNK_TRADES):
            yield coalesce(chunk)
            chunk, weight, count = [], 0, 0
        chunk += inside
        weight, count = weight + rows, count + 1
    if chunk:
        yield coalesce(chunk)


def _share(file: LiveFile, interval: Interval) -> float:
    both = file.span.intersect(interval)
    length = file.span.end - file.span.start
    return file.file.record_count * ((both.end - both.start) / length) if both else 0.0
