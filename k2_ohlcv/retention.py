"""Retention: what is past its time goes, and the disk gets its space back. A dry run unless told to apply.

What goes is decided in `domain.retention` from what the tables hold; `lake.expiry`, `lake.compaction` and
`lake.sweep` carry it out. Each step is a commit or a removal that the next run finds done or does again, so a
process that dies anywhere leaves tables that read as before.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import structlog
from pyiceberg.table import Table

from k2_ohlcv.domain.retention import Coverage, Kept, crowded, cutoff, frozen_line
from k2_ohlcv.domain.retention_limit import Clocks
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.lake import trades as trades_table
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.compaction import Compacted, compact
from k2_ohlcv.lake.expiry import Going, drop, expire
from k2_ohlcv.lake.files import file_sizes
from k2_ohlcv.lake.frozen_line import remember_frozen_line
from k2_ohlcv.lake.lines import EXPIRED, FROZEN, Lines, line_of, newest_trade, present
from k2_ohlcv.lake.location import Location
from k2_ohlcv.lake.missing import MissingTable
from k2_ohlcv.lake.newest_trade import find_newest_trade
from k2_ohlcv.lake.open_work import OpenWork
from k2_ohlcv.lake.schemas import REJECTED, TRADES
from k2_ohlcv.lake.sweep import remove_orphans
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.retention_hold import DropLimit
from k2_ohlcv.retention_report import Held, RetentionReport, TableReport

_log = structlog.get_logger(__name__)


def retention(
    lake: Lake,
    kept: Kept,
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
    moment = as_of or present(newest_trade(trades), trades, clock)
    limit = DropLimit(Clocks(moment, clock) if moment else None, newest, limited)
    # A run for a day to come ages snapshots as that day will; files are never older than the clock says.
    snapshots_before = max(clock, as_of or clock) - kept.snapshots
    whole = set(timeframes) >= set(TIMEFRAMES)
    rooms: list[_Room] = [_Trades(lake, kept, moment)] if whole and lake.owns_trades else []
    rooms += [_Candles(lake, kept, moment, timeframe) for timeframe in timeframes]
    if whole and lake.owns_trades and lake.catalog.table_exists(REJECTED.identifier):
        rooms.append(_Rejected(lake, REJECTED.name))
    for room in rooms:
        room.limit = limit
    tell = progress or (lambda _: None)
    reports = []
    # Candles first: what a late trade may not bring back any more does not hold the trades back either.
    for room in reversed(rooms):
        tell(room.name)
        reports.append(room.apply(snapshots_before, clock) if apply else room.planned())
    if apply:
        # After all of them: the frozen line of the trades is written to candle tables too.
        reports = [room.measure(report) for room, report in zip(reversed(rooms), reports, strict=True)]
    return RetentionReport(apply, tuple(reversed(reports)), moment, newest)


class _Room(ABC):
    """One table under retention.

    Attributes:
        grain: of the partitions.
        line: the property that moves where partitions go; None where none do.
        limit: how much may go at once.
    """

    grain: Grain
    line: str | None = None
    limit = DropLimit()

    def __init__(self, lake: Lake, name: str) -> None:
        self.lake = lake
        self.name = name
        self._held: Held | None = None
        self._usage_before: int | None = None

    @abstractmethod
    def load(self) -> Table:
        """The table, as the catalog has it now."""

    def look(self, _: Table) -> Going:
        """What goes from the table as it was loaded."""
        return Going()

    def needed(self) -> set[int]:
        """Snapshots that watermarks name."""
        return set()

    def protected(self, _: Table) -> set[int]:
        """Snapshots that a commit must not expire by the way."""
        return set()

    def blocked(self) -> tuple[str, ...]:
        """Why no more goes, as of the last look."""
        return ()

    def tell_line(self) -> None:  # noqa: B027 - most tables have no line that others remember
        """Have other tables remember the line."""

    def compact(self, _: datetime) -> Compacted:
        """Make many small files few."""
        return Compacted()

    def _look_within_limit(self, table: Table) -> Going:
        going = self.look(table)
        self._held = self.limit.held(table, self.grain, going)
        return replace(going, partitions=(), files=()) if self._held and self.limit.is_enforced else going

    def planned(self) -> TableReport:
        if self.is_missing():
            return TableReport(self.name)
        table = self.load()
        going = self.look(table)
        self._held = self.limit.held(table, self.grain, going)
        return self._report(going)

    def is_missing(self) -> bool:
        """Whether the catalog does not have the table: nothing of it is looked after then."""
        return isinstance(self.load(), MissingTable)

    def apply(self, snapshots_before: datetime, now: datetime) -> TableReport:
        if self.is_missing():
            return TableReport(self.name)
        self._usage_before = Location(self.load()).usage()
        going = Going()
        if self.line is not None:
            going = drop(self.load, self._look_within_limit, self.line, self.protected, self.limit.properties)
            if not going.partitions and self._held is None:
                self.limit.remember(self.load)
            self.tell_line()
        compacted = self.compact(now)
        expiry = expire(self.load, snapshots_before, self.needed)
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
            report = replace(report, bytes_freed=self._usage_before - Location(self.load()).usage())
        _log.info("retention", **{**report.as_json(), "partitions": len(report.partitions)})
        return report

    def _report(self, going: Going) -> TableReport:
        return TableReport(
            table=self.name,
            cutoff=going.cutoff,
            partitions=tuple(self.grain.key(p) for p in going.partitions),
            rows=going.rows,
            bytes=going.bytes,
            blocked=self.blocked(),
            files_per_partition=self._files_per_partition(),
            held=self._held,
        )

    def _files_per_partition(self) -> tuple[int, float]:
        counts = [len(sizes) for sizes in file_sizes(self.load()).values()]
        return max(counts, default=0), sum(counts) / len(counts) if counts else 0.0


class _Candles(_Room):
    """A candle table."""

    line = EXPIRED

    def __init__(self, lake: Lake, kept: Kept, moment: datetime | None, timeframe: Timeframe) -> None:
        super().__init__(lake, timeframe.table)
        self.timeframe = timeframe
        self.grain = timeframe.grain
        self.cutoff = cutoff(moment, kept.candles[timeframe.name], timeframe.grain)

    def load(self) -> Table:
        return self.lake.candles(self.timeframe)

    def look(self, table: Table) -> Going:
        return Going.of(table, self.cutoff)


class _Trades(_Room):
    """Our trades."""

    grain, line = Grain.DAY, FROZEN

    def __init__(self, lake: Lake, kept: Kept, moment: datetime | None) -> None:
        super().__init__(lake, TRADES.name)
        self.cutoff = cutoff(moment, kept.trades, Grain.DAY)
        self._candles: dict[Timeframe, Table] = {}
        self._behind: tuple[Coverage, ...] = ()

    def load(self) -> Table:
        # The candle tables first: their watermarks are then of snapshots that the trades loaded know.
        self._candles = {timeframe: self.lake.candles(timeframe) for timeframe in TIMEFRAMES}
        return self.lake.trades()

    def look(self, table: Table) -> Going:
        wanted = Going.of(table, self.cutoff)
        if not wanted.partitions:
            return wanted
        found = [_coverage(candles, table, timeframe) for timeframe, candles in self._candles.items()]
        line, self._behind = frozen_line(self.cutoff, found)
        return Going.of(table, line) if self._behind else wanted

    def blocked(self) -> tuple[str, ...]:
        return tuple(c.reason for c in self._behind)

    def needed(self) -> set[int]:
        marks = [Watermark.of(self.lake.candles(timeframe)) for timeframe in TIMEFRAMES]
        return {mark.snapshot_id for mark in marks if mark}

    def protected(self, table: Table) -> set[int]:
        return trades_table.needed(self.lake, table)

    def tell_line(self) -> None:
        if line := line_of(self.load(), FROZEN):
            for each in TIMEFRAMES:
                remember_frozen_line(partial(self.lake.candles, each), line)

    def compact(self, now: datetime) -> Compacted:
        sizes = file_sizes(self.load())
        written = {max(sizes), Grain.DAY.partition(now)} if sizes else set()
        chosen = crowded(sizes, written)
        return compact(self.load, chosen, self.protected) if chosen else Compacted()


class _Rejected(_Room):
    """The rows that were no trades: all are kept, and no snapshot or file that they do not need."""

    grain = Grain.DAY

    def load(self) -> Table:
        return self.lake.rejected()


def _coverage(candles: Table, trades: Table, timeframe: Timeframe) -> Coverage:
    """Up to where a candle table has taken in the trades as they are."""
    work = OpenWork.of(candles, trades)
    if work.reason is not None:
        nothing = datetime.min.replace(tzinfo=UTC)
        return Coverage(timeframe.table, nothing, f"{timeframe.table}: {work.reason}: refresh it first")
    dirty = Lines.of(candles, trades, timeframe).ahead(work.bounds)
    if not dirty:
        return Coverage(timeframe.table)
    reason = (
        f"{timeframe.table} has not taken in what changed from {dirty[0].start:%Y-%m-%d}: refresh it first"
    )
    return Coverage(timeframe.table, dirty[0].start, reason)
