"""Retention: drops old partitions, expires snapshots, compacts trades and removes orphan files of all tables.

The steps that all tables share are in `table_retention`, the decisions in `domain.retention`. Each step is
complete in itself: the next run continues after a crash, and readers see the tables as before. A run is a dry
run unless `apply` is true.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

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
from k2_ohlcv.lake.maintenance.partition_drops import (
    PartitionsToDrop,
    announce_frozen_before,
    remember_frozen_before,
)
from k2_ohlcv.lake.metadata.files import file_sizes
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges, reject_missing_trades
from k2_ohlcv.lake.newest_trade import find_newest_trade
from k2_ohlcv.lake.schemas import REJECTED_SPEC, TRADES_SPEC
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.drop_limit import DropLimit
from k2_ohlcv.operations.retention_report import RetentionReport, TableReport
from k2_ohlcv.operations.table_retention import TableRetention


def retention(
    lake: Lake,
    policy: RetentionPolicy,
    *,
    apply: bool = False,
    limited: bool = False,
    as_of: datetime | None = None,
    timeframes: Sequence[Timeframe] = TIMEFRAMES,
    now: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> RetentionReport:
    """Drop old partitions, expire old snapshots, remove orphan files, compact trades.

    Args:
        lake: the lake.
        policy: how long data and snapshots are kept.
        apply: change the tables. Otherwise the run only reports the changes.
        limited: hold back a large drop after a jump of the data clock, as scheduled runs do. Otherwise such a
            drop is only reported.
        as_of: the moment from which ages are measured. By default the newest trade, or now if earlier.
        timeframes: the candle tables. Trades and rejected trades are included only with all timeframes.
        now: the current time, for the age of snapshots and files.
        progress: a function that receives progress texts.

    Raises:
        CommitConflictError: other writers won every attempt. Earlier steps stay committed.
        MissingTradesError: candles exist, but there are no trades. Dry runs are refused too.
    """
    clock = now or datetime.now(UTC)
    trades = lake.trades()
    for timeframe in timeframes:
        reject_missing_trades(lake.candles(timeframe), trades)
    newest = None if as_of else find_newest_trade(trades)
    moment = as_of or latest_time(newest_trade_time(trades), trades, clock)
    limit = DropLimit(RetentionClocks(moment, clock) if moment else None, newest, limited)
    tables = _choose_tables(lake, policy, moment, limit, timeframes)
    # With a later `as_of`, snapshots have the age of that day. Files have their age by the clock.
    snapshots_before = max(clock, as_of or clock) - policy.snapshots
    reports = tuple(_process_tables(tables, snapshots_before, clock, apply=apply, progress=progress))
    return RetentionReport(apply, reports, moment, newest)


def _process_tables(
    tables: Sequence[TableRetention],
    snapshots_before: datetime,
    now: datetime,
    *,
    apply: bool,
    progress: Callable[[str], None] | None,
) -> list[TableReport]:
    """Preview or apply retention of all tables, and return the reports in the order of the tables."""
    reports = []
    # Candles first: dropped candles need no late trades any more, and then do not block the drop of trades.
    for table in reversed(tables):
        if progress:
            progress(table.name)
        reports.append(table.apply(snapshots_before, now) if apply else table.preview())
    if apply:
        # Measure all tables at the end: retention of trades also writes to candle tables.
        reports = [table.measure(report) for table, report in zip(reversed(tables), reports, strict=True)]
    return reports[::-1]


def _choose_tables(
    lake: Lake,
    policy: RetentionPolicy,
    moment: datetime | None,
    limit: DropLimit,
    timeframes: Sequence[Timeframe],
) -> list[TableRetention]:
    """Choose the tables of a run, in the order of the report."""
    tables: list[TableRetention] = [_CandleRetention(lake, policy, moment, t) for t in timeframes]
    if set(timeframes) >= set(TIMEFRAMES) and lake.has_own_trades:
        tables.insert(0, _TradeRetention(lake, policy, moment))
        if lake.catalog.table_exists(REJECTED_SPEC.identifier):
            tables.append(_RejectedRetention(lake, REJECTED_SPEC.name))
    for table in tables:
        table.limit = limit
    return tables


class _CandleRetention(TableRetention):
    """Retention of a candle table."""

    bound_property = EXPIRED_BEFORE

    def __init__(
        self, lake: Lake, policy: RetentionPolicy, moment: datetime | None, timeframe: Timeframe
    ) -> None:
        """Compute the cutoff of the table from `moment`, the moment from which ages are measured."""
        super().__init__(lake, timeframe.table)
        self.timeframe = timeframe
        self.grain = timeframe.grain
        self.cutoff = cutoff(moment, policy.candles[timeframe.name], timeframe.grain)

    def load(self) -> Table:
        return self.lake.candles(self.timeframe)

    def find_partitions(self, table: Table) -> PartitionsToDrop:
        return PartitionsToDrop.find(table, self.cutoff)


class _TradeRetention(TableRetention):
    """Retention of the project's own trades table."""

    grain, bound_property = Grain.DAY, FROZEN_BEFORE

    def __init__(self, lake: Lake, policy: RetentionPolicy, moment: datetime | None) -> None:
        """Compute the cutoff of the table from `moment`, the moment from which ages are measured."""
        super().__init__(lake, TRADES_SPEC.name)
        self.cutoff = cutoff(moment, policy.trades, Grain.DAY)
        self._candles: dict[Timeframe, Table] = {}
        self._lagging: tuple[CandleCoverage, ...] = ()

    def load(self) -> Table:
        # Load candle tables first. The loaded trades table then has the snapshots of their watermarks.
        self._candles = {timeframe: self.lake.candles(timeframe) for timeframe in TIMEFRAMES}
        return self.lake.trades()

    def find_partitions(self, table: Table) -> PartitionsToDrop:
        drop = PartitionsToDrop.find(table, self.cutoff)
        if not drop.partitions:
            return drop
        coverages = [
            _find_coverage(candles, table, timeframe) for timeframe, candles in self._candles.items()
        ]
        frozen_before, self._lagging = limit_frozen_before(self.cutoff, coverages)
        return PartitionsToDrop.find(table, frozen_before) if self._lagging else drop

    def blocked_reasons(self) -> tuple[str, ...]:
        return tuple(c.reason for c in self._lagging)

    def protected_snapshots(self) -> set[int]:
        marks = [Watermark.from_table(self.lake.candles(timeframe)) for timeframe in TIMEFRAMES]
        return {mark.snapshot_id for mark in marks if mark}

    def commit_protected_snapshots(self, table: Table) -> set[int]:
        return trades_table.protected_snapshots(self.lake, table)

    def announce_bound(self, table: Table, bound: datetime) -> None:
        for timeframe in TIMEFRAMES:
            announce_frozen_before(partial(self.lake.candles, timeframe), table, bound)

    def copy_bound(self) -> None:
        if frozen_before := read_bound(self.load(), FROZEN_BEFORE):
            for timeframe in TIMEFRAMES:
                remember_frozen_before(partial(self.lake.candles, timeframe), frozen_before)

    def compact(self, now: datetime) -> CompactionResult:
        sizes = file_sizes(self.load())
        # Ingestion mostly writes to the newest day and to today.
        written = {max(sizes), Grain.DAY.partition(now)} if sizes else set()
        partitions = partitions_to_compact(sizes, written)
        if not partitions:
            return CompactionResult()
        return compact_partitions(self.load, partitions, self.commit_protected_snapshots)


class _RejectedRetention(TableRetention):
    """Retention of `rejected_trades`: rows are kept for ever, old snapshots and orphan files are removed."""

    grain = Grain.DAY

    def load(self) -> Table:
        return self.lake.rejected()


def _find_coverage(candles: Table, trades: Table, timeframe: Timeframe) -> CandleCoverage:
    """Find the time before which a candle table equals the current trades."""
    pending = PendingChanges.find(candles, trades)
    if pending.reason is not None:
        beginning = datetime.min.replace(tzinfo=UTC)
        reason = f"{timeframe.table}: {pending.reason}: refresh it first"
        return CandleCoverage(timeframe.table, beginning, reason)
    dirty = HistoryBounds.from_tables(candles, trades, timeframe).clip(pending.bounds)
    if not dirty:
        return CandleCoverage(timeframe.table)
    reason = f"{timeframe.table} has dirty windows from {dirty[0].start:%Y-%m-%d}: refresh it first"
    return CandleCoverage(timeframe.table, dirty[0].start, reason)
