"""Retention: what is past its time goes, and the disk gets its space back. A dry run unless told to apply.

What goes is decided in `domain.retention` from what the tables hold; `lake.maintenance.snapshot_expiry`,
`lake.maintenance.compaction` and `lake.maintenance.orphan_files` carry it out. Each step is a commit or a
removal that the next run finds done or does again, so a process that dies anywhere leaves tables that read as
before.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import structlog
from pyiceberg.table import Table

from k2_ohlcv.domain.retention import (
    CandleCoverage,
    RetentionPolicy,
    cutoff,
    limit_frozen_before,
    partitions_to_compact,
)
from k2_ohlcv.domain.retention_limit import RetentionClocks
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.lake import trades as trades_table
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.history_bounds import (
    EXPIRED_BEFORE,
    FROZEN_BEFORE,
    HistoryBounds,
    latest_time,
    newest_trade_time,
    read_bound,
)
from k2_ohlcv.lake.maintenance.compaction import CompactionResult, compact_partitions
from k2_ohlcv.lake.maintenance.orphan_files import remove_orphans
from k2_ohlcv.lake.maintenance.partition_drops import PartitionsToDrop, drop_partitions
from k2_ohlcv.lake.maintenance.remember_frozen_before import remember_frozen_before
from k2_ohlcv.lake.maintenance.snapshot_expiry import expire_snapshots
from k2_ohlcv.lake.maintenance.table_files import TableFiles
from k2_ohlcv.lake.metadata.files import file_sizes
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.newest_trade import find_newest_trade
from k2_ohlcv.lake.schemas import REJECTED_SPEC, TRADES_SPEC
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.drop_limit import DropLimit
from k2_ohlcv.operations.retention_report import HeldBack, RetentionReport, TableReport

_log = structlog.get_logger(__name__)


def retention(
    lake: Lake,
    kept: RetentionPolicy,
    *,
    apply: bool = False,
    limited: bool = False,
    as_of: datetime | None = None,
    timeframes: Sequence[Timeframe] = TIMEFRAMES,
    now: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> RetentionReport:
    """Drop what is past its time, expire old snapshots, remove what only they needed, compact trades.

    Args:
        lake: where the tables are.
        kept: how long what is kept.
        apply: do it; else only say what would go.
        limited: drop nothing of a table that would lose much at once where the data's clock jumped, as a
            scheduled run does. Else such a drop is only told of.
        as_of: the moment that ages are measured from; by default the newest trade, or now if that is earlier.
        timeframes: the candle tables to look after. Trades, and rows that were no trades, are looked after
            with all of them only.
        now: the clock, by which snapshots and files age; by default this moment.
        progress: told in words what is being done.

    Raises:
        CommitConflictError: other writers won every attempt; what was done until then is complete in itself.
    """
    clock = now or datetime.now(UTC)
    trades = lake.trades()
    newest = None if as_of else find_newest_trade(trades)
    moment = as_of or latest_time(newest_trade_time(trades), trades, clock)
    limit = DropLimit(RetentionClocks(moment, clock) if moment else None, newest, limited)
    # A run for a day to come ages snapshots as that day will; files are never older than the clock says.
    snapshots_before = max(clock, as_of or clock) - kept.snapshots
    whole = set(timeframes) >= set(TIMEFRAMES)
    rooms: list[_TableRetention] = (
        [_TradeRetention(lake, kept, moment)] if whole and lake.has_own_trades else []
    )
    rooms += [_CandleRetention(lake, kept, moment, timeframe) for timeframe in timeframes]
    if whole and lake.has_own_trades and lake.catalog.table_exists(REJECTED_SPEC.identifier):
        rooms.append(_RejectedRetention(lake, REJECTED_SPEC.name))
    for room in rooms:
        room.limit = limit
    tell = progress or (lambda _: None)
    reports = []
    # Candles first: what a late trade may not bring back any more does not hold the trades back either.
    for room in reversed(rooms):
        tell(room.name)
        reports.append(room.apply(snapshots_before, clock) if apply else room.preview())
    if apply:
        # After all of them: the frozen line of the trades is written to candle tables too.
        reports = [room.measure(report) for room, report in zip(reversed(rooms), reports, strict=True)]
    return RetentionReport(apply, tuple(reversed(reports)), moment, newest)


class _TableRetention(ABC):
    """One table under retention.

    Attributes:
        grain: of the partitions.
        bound_property: the property that moves where partitions go; None where none do.
        limit: how much may go at once.
    """

    grain: Grain
    bound_property: str | None = None
    limit = DropLimit()

    def __init__(self, lake: Lake, name: str) -> None:
        self.lake = lake
        self.name = name
        self._held_back: HeldBack | None = None
        self._usage_before: int | None = None

    @abstractmethod
    def load(self) -> Table:
        """The table, as the catalog has it now."""

    def find_partitions(self, _: Table) -> PartitionsToDrop:
        """What goes from the table as it was loaded."""
        return PartitionsToDrop()

    def protected_snapshots(self) -> set[int]:
        """Snapshots that watermarks name."""
        return set()

    def commit_protected_snapshots(self, _: Table) -> set[int]:
        """Snapshots that a commit must not expire by the way."""
        return set()

    def blocked_reasons(self) -> tuple[str, ...]:
        """Why no more goes, as of the last look."""
        return ()

    def copy_bound(self) -> None:  # noqa: B027 - most tables have no line that others remember
        """Have other tables remember the line."""

    def compact(self, _: datetime) -> CompactionResult:
        """Make many small files few."""
        return CompactionResult()

    def _find_within_limit(self, table: Table) -> PartitionsToDrop:
        going = self.find_partitions(table)
        self._held_back = self.limit.find_held_back(table, self.grain, going)
        return (
            replace(going, partitions=(), files=()) if self._held_back and self.limit.is_enforced else going
        )

    def preview(self) -> TableReport:
        if self.is_missing():
            return TableReport(self.name)
        table = self.load()
        going = self.find_partitions(table)
        self._held_back = self.limit.find_held_back(table, self.grain, going)
        return self._report(going)

    def is_missing(self) -> bool:
        """Whether the catalog does not have the table: nothing of it is looked after then."""
        return isinstance(self.load(), MissingTable)

    def apply(self, snapshots_before: datetime, now: datetime) -> TableReport:
        if self.is_missing():
            return TableReport(self.name)
        self._usage_before = TableFiles(self.load()).usage()
        going = PartitionsToDrop()
        if self.bound_property is not None:
            going = drop_partitions(
                self.load,
                self._find_within_limit,
                self.bound_property,
                self.commit_protected_snapshots,
                self.limit.properties,
            )
            if not going.partitions and self._held_back is None:
                self.limit.store_clocks(self.load)
            self.copy_bound()
        compacted = self.compact(now)
        expiry = expire_snapshots(self.load, snapshots_before, self.protected_snapshots)
        removed = expiry.removed + remove_orphans(self.load, datetime.now(UTC))
        return replace(
            self._report(going),
            files_removed=removed.files,
            files_refused=removed.refused,
            snapshots_expired=expiry.snapshots,
            compacted=compacted,
        )

    def measure(self, report: TableReport) -> TableReport:
        """The report of what was applied, with the bytes that the table's folder takes less than before."""
        if self._usage_before is not None:
            report = replace(report, bytes_freed=self._usage_before - TableFiles(self.load()).usage())
        _log.info("retention", **{**report.as_json(), "partitions": len(report.partitions)})
        return report

    def _report(self, going: PartitionsToDrop) -> TableReport:
        return TableReport(
            table=self.name,
            cutoff=going.cutoff,
            partitions=tuple(self.grain.key(p) for p in going.partitions),
            rows=going.rows,
            bytes=going.bytes,
            blocked=self.blocked_reasons(),
            files_per_partition=self._files_per_partition(),
            held_back=self._held_back,
        )

    def _files_per_partition(self) -> tuple[int, float]:
        counts = [len(sizes) for sizes in file_sizes(self.load()).values()]
        return max(counts, default=0), sum(counts) / len(counts) if counts else 0.0


class _CandleRetention(_TableRetention):
    """A candle table."""

    bound_property = EXPIRED_BEFORE

    def __init__(
        self, lake: Lake, kept: RetentionPolicy, moment: datetime | None, timeframe: Timeframe
    ) -> None:
        super().__init__(lake, timeframe.table)
        self.timeframe = timeframe
        self.grain = timeframe.grain
        self.cutoff = cutoff(moment, kept.candles[timeframe.name], timeframe.grain)

    def load(self) -> Table:
        return self.lake.candles(self.timeframe)

    def find_partitions(self, table: Table) -> PartitionsToDrop:
        return PartitionsToDrop.find(table, self.cutoff)


class _TradeRetention(_TableRetention):
    """Our trades."""

    grain, bound_property = Grain.DAY, FROZEN_BEFORE

    def __init__(self, lake: Lake, kept: RetentionPolicy, moment: datetime | None) -> None:
        super().__init__(lake, TRADES_SPEC.name)
        self.cutoff = cutoff(moment, kept.trades, Grain.DAY)
        self._candles: dict[Timeframe, Table] = {}
        self._lagging: tuple[CandleCoverage, ...] = ()

    def load(self) -> Table:
        # The candle tables first: their watermarks are then of snapshots that the trades loaded know.
        self._candles = {timeframe: self.lake.candles(timeframe) for timeframe in TIMEFRAMES}
        return self.lake.trades()

    def find_partitions(self, table: Table) -> PartitionsToDrop:
        wanted = PartitionsToDrop.find(table, self.cutoff)
        if not wanted.partitions:
            return wanted
        found = [_candle_coverage(candles, table, timeframe) for timeframe, candles in self._candles.items()]
        line, self._lagging = limit_frozen_before(self.cutoff, found)
        return PartitionsToDrop.find(table, line) if self._lagging else wanted

    def blocked_reasons(self) -> tuple[str, ...]:
        return tuple(c.reason for c in self._lagging)

    def protected_snapshots(self) -> set[int]:
        marks = [Watermark.from_table(self.lake.candles(timeframe)) for timeframe in TIMEFRAMES]
        return {mark.snapshot_id for mark in marks if mark}

    def commit_protected_snapshots(self, table: Table) -> set[int]:
        return trades_table.protected_snapshots(self.lake, table)

    def copy_bound(self) -> None:
        if line := read_bound(self.load(), FROZEN_BEFORE):
            for each in TIMEFRAMES:
                remember_frozen_before(partial(self.lake.candles, each), line)

    def compact(self, now: datetime) -> CompactionResult:
        sizes = file_sizes(self.load())
        written = {max(sizes), Grain.DAY.partition(now)} if sizes else set()
        chosen = partitions_to_compact(sizes, written)
        return (
            compact_partitions(self.load, chosen, self.commit_protected_snapshots)
            if chosen
            else CompactionResult()
        )


class _RejectedRetention(_TableRetention):
    """The rows that were no trades: all are kept, and no snapshot or file that they do not need."""

    grain = Grain.DAY

    def load(self) -> Table:
        return self.lake.rejected()


def _candle_coverage(candles: Table, trades: Table, timeframe: Timeframe) -> CandleCoverage:
    """Up to where a candle table has taken in the trades as they are."""
    work = PendingChanges.find(candles, trades)
    if work.reason is not None:
        nothing = datetime.min.replace(tzinfo=UTC)
        return CandleCoverage(timeframe.table, nothing, f"{timeframe.table}: {work.reason}: refresh it first")
    dirty = HistoryBounds.from_tables(candles, trades, timeframe).clip(work.bounds)
    if not dirty:
        return CandleCoverage(timeframe.table)
    reason = (
        f"{timeframe.table} has not taken in what changed from {dirty[0].start:%Y-%m-%d}: refresh it first"
    )
    return CandleCoverage(timeframe.table, dirty[0].start, reason)
