"""The one operation: make windows of a candle table equal to the trades, in atomic commits.

Everything else only chooses the intervals (`plan`). Here: the attempts, the commits, and rebuilds of whole
partitions; what changed since the watermark is brought in by `refresh`.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl
import structlog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.domain.frame import SHOWN, finish
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.domain.window import Interval, coalesce, intersect_all
from k2_ohlcv.engine import rollup
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.candles import CandleChange, Stored
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import CONFLICTS, Change, commit
from k2_ohlcv.lake.files import LiveFile, live_files
from k2_ohlcv.lake.foreign import ForeignTrades
from k2_ohlcv.lake.missing import MissingTable
from k2_ohlcv.lake.watermark import RefusedWindow, Watermark
from k2_ohlcv.plan import Plan, plan_rebuild
from k2_ohlcv.report import PartitionReport, RefusedWindowsError, Report

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
        RefusedWindowsError: some windows break an invariant. All others are committed.
        MissingTradesError: the candles were made from trades, and there are none any more.
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
            plan = choose(candles, trades)
            if plan.damaged:
                _log.warning("candles behind a line were changed", table=timeframe.table, reason=plan.damage)
            work = _Work(lake, engine, trades, plan, progress or (lambda _: None))
            report = work.carry_out(candles)
        except (*CONFLICTS, FileNotFoundError) as conflict:
            if isinstance(conflict, FileNotFoundError) and not _moved(lake, timeframe, base):
                raise
            _log.warning("conflict", table=timeframe.table, attempt=attempt + 1, error=str(conflict))
            time.sleep(random.uniform(0.05, 0.2) * 2**attempt)  # noqa: S311 - a pause, not a secret
        else:
            report = replace(report, seconds=time.monotonic() - started)
            if report.refused:
                raise work.refusal(report)
            return report
    raise CommitConflictError(
        f"other writers committed to {timeframe.table} during each of {ATTEMPTS} attempts; nothing is lost, "
        "run it again when fewer write at once"
    )


def _moved(lake: Lake, timeframe: Timeframe, base: str) -> bool:
    """Whether somebody committed candles since: files of the version that we loaded may be gone by now."""
    return lake.candles(timeframe).metadata_location != base


@dataclass(frozen=True)
class _Work:
    """One attempt to carry out a plan."""

    lake: Lake
    engine: Engine
    trades: Table
    plan: Plan
    progress: Callable[[str], None]

    def carry_out(self, candles: Table) -> Report:
        """Compute and commit the plan in chunks. Each commit closes the intervals that it reconciled."""
        plan = self.plan
        chunks = list(_chunks(plan, self.trades))
        partitions: list[PartitionReport] = []
        refused: list[RefusedWindow] = []
        mark, committed = plan.start, False
        for chunk in chunks or [[]]:
            self.progress(f"{plan.timeframe.table}: {len(partitions)} of {len(plan.partitions)} partitions")
            change, computed = self._change(candles, chunk) if chunk else (None, None)
            bad = _refused_windows(change, plan.timeframe)
            mark = mark.after(chunk, bad) if mark else None
            step = _to_commit(candles, change, mark, dict(plan.properties))
            if step is not None:
                candles = commit(self._created(candles), step)
                committed = True
            if change is not None and computed is not None:
                partitions.extend(_reports(plan.timeframe, change, computed, chunk))
            refused += bad
        snapshot = candles.metadata.current_snapshot_id
        return Report(plan, snapshot, committed, 0.0, tuple(partitions), tuple(refused), mark)

    def _change(self, candles: Table, chunk: Sequence[Interval]) -> tuple[CandleChange, pl.DataFrame]:
        """Compute some windows at the pinned snapshot, and compare them with the table as it was loaded.

        Only days that have trades are asked for, so that a month asks for what a scan for the shorter
        timeframes of the same run has found already.
        """
        plan, windows = self.plan, rollup.WINDOWS.empty_table()
        if plan.trades_to is not None:
            wanted = intersect_all(chunk, plan.days)
            windows = rollup.windows(self.engine, self.trades, plan.trades_to, plan.timeframe, wanted)
        computed, refused = finish(windows, plan.timeframe)
        stored = Stored.load(candles, plan.timeframe, chunk)
        return stored.change(computed, refused, chunk, datetime.now(UTC)), computed

    def _created(self, candles: Table) -> Table:
        """The table to commit to, created where there is none yet.

        Raises:
            CommitFailedException: somebody else has created it and committed to it meanwhile.
        """
        if not isinstance(candles, MissingTable):
            return candles
        created = self.lake.candles_to_write(self.plan.timeframe)
        if created.current_snapshot() is not None:
            raise CommitFailedException("the table was created meanwhile")
        return created

    def refusal(self, report: Report) -> RefusedWindowsError:
        """The error that names the refused windows, and what to do."""
        shown = [str(window) for window in report.refused[:SHOWN]]
        more = f" and {len(report.refused) - SHOWN:,} more" if len(report.refused) > SHOWN else ""
        counts = Counter(window.check for window in report.refused)
        named = f"{len(report.refused):,} windows of {self.plan.timeframe.table} break {', '.join(counts)}: "
        todo = (
            "Correct or delete their trades (k2-ohlcv trades delete), then refresh"
            if self.lake.owns_trades
            else "Their trades have to be corrected by the owner of the table, then refresh"
        )
        told = f"{named}{'; '.join(shown)}{more}. They stay as they were; all others are committed. {todo}"
        return RefusedWindowsError(f"{told}{self._misfits(report)}", counts, report)

    def _misfits(self, report: Report) -> str:
        """The trades of another writer that cannot be read exactly, where some windows have such."""
        if not isinstance(self.trades, ForeignTrades) or self.plan.trades_to is None:
            return ""
        spans = [r.window for r in report.refused if r.check == "positive_metrics"]
        if not spans:
            return ""
        return f". {rollup.describe_misfits(self.engine, self.trades, self.plan.trades_to, spans)}"


def _refused_windows(change: CandleChange | None, timeframe: Timeframe) -> list[RefusedWindow]:
    if change is None:
        return []
    return [
        RefusedWindow(row["check"], row["exchange"], row["symbol"], timeframe.window(row["window_start"]))
        for row in change.refused.to_dicts()
    ]


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


def _to_commit(
    candles: Table, change: CandleChange | None, mark: Watermark | None, properties: dict[str, str]
) -> Change | None:
    """The commit that is due, or None: candles that are right under a watermark that says so already."""
    is_empty = change is None or change.is_empty
    if isinstance(candles, MissingTable) and is_empty:
        return None  # a table is created with its first candles
    is_said = mark is None or (mark == (said := Watermark.of(candles)) and mark.is_mirrored(candles))
    if mark is not None and said is not None:
        # What became possible, or lies ahead of the frozen line again, is reconciled now. Else it stays open.
        came = change is not None and mark.until != said.until
        thawed = said.frozen is not None and (mark.frozen is None or mark.frozen < said.frozen)
        is_said = is_said and not (came or thawed)
    missing = {key: value for key, value in properties.items() if candles.properties.get(key) != value}
    if is_empty and is_said and not missing:
        return None
    return Change(
        removed=() if change is None else tuple(task.file for task in change.removed),
        rows=None if change is None else change.rows,
        properties={**missing, **(mark.properties() if mark else {})},
        summary=mark.summary() if mark else {},
    )


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
