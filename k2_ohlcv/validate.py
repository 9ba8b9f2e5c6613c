"""Validation: hold what is stored to what must hold of it, reading tables and trades on its own.

What the checks are is in `domain.checks`. A table that cannot be read raises: an outage is no failed check.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import Table

from k2_ohlcv.domain import checks
from k2_ohlcv.domain.checks import CHECKS, Finding, merged
from k2_ohlcv.domain.frame import CANDLE_TYPES, SHOWN, inside
from k2_ohlcv.domain.gaps import Gaps
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.domain.trading_times import trading_times
from k2_ohlcv.domain.window import DAY, Interval, coalesce, intersect_all, subtract
from k2_ohlcv.engine.outside import rows_outside
from k2_ohlcv.engine.session import Done, Engine
from k2_ohlcv.engine.totals import totals
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.changes import trades_spans
from k2_ohlcv.lake.delete_files import plan
from k2_ohlcv.lake.files import data_files, live_files, partition_of
from k2_ohlcv.lake.lines import Lines
from k2_ohlcv.lake.open_work import OpenWork, reject_missing_trades
from k2_ohlcv.lake.staleness import behind_since
from k2_ohlcv.lake.watermark import Watermark

#: So many days are in memory at once: 31 of 1m with 50 markets are two million rows.
_CHUNK = 31 * DAY


@dataclass(frozen=True)
class _Side:
    """A candle table as it was loaded, and where it is not held to the trades.

    Attributes:
        table: the table.
        timeframe: what it has candles of.
        lines: where history stands still.
        pending: windows ahead of the lines that are dirty since the watermark.
        too_late: windows behind the lines that changed since, and stay as they are.
    """

    table: Table
    timeframe: Timeframe
    lines: Lines
    pending: tuple[Interval, ...]
    too_late: tuple[Interval, ...]

    @classmethod
    def of(cls, table: Table, trades: Table, timeframe: Timeframe) -> "_Side":
        """The side of a candle table that was loaded before the trades: its watermark is none to come."""
        lines = Lines.of(table, trades, timeframe)
        dirty = timeframe.align(_dirty(table, trades, timeframe))
        pending = lines.ahead(dirty)
        return cls(table, timeframe, lines, tuple(pending), tuple(subtract(dirty, pending)))

    def behind(self, intervals: Sequence[Interval]) -> list[Interval]:
        """The windows of some intervals that lie behind a line."""
        return self.timeframe.align(subtract(intervals, self.lines.ahead(intervals)))

    def read(self, intervals: Sequence[Interval]) -> pl.DataFrame:
        """The rows of the intervals' partitions, with the key of the partition that each is stored in."""
        wanted = set(self.timeframe.grain.partitions(intervals))
        scan = ArrowScan(self.table.metadata, self.table.io, self.table.schema(), AlwaysTrue())
        frames = [pl.DataFrame(schema={**CANDLE_TYPES, "partition": pl.String})]
        grain, current = self.timeframe.grain, self.table.metadata.current_snapshot_id
        files = live_files(self.table, "window_start", grain, current)
        inside = [f for f in files if not f.is_delete and partition_of(f.file, grain) in wanted]
        for task in plan(self.table, self.timeframe, inside)[0]:
            rows = pl.DataFrame(scan.to_table([task])).cast(pl.Schema(CANDLE_TYPES))
            key = grain.key(partition_of(task.file, grain))
            frames.append(rows.with_columns(pl.lit(key).alias("partition")))
        return pl.concat(frames)


def _dirty(table: Table, trades: Table, timeframe: Timeframe) -> Sequence[Interval]:
    work = OpenWork.of(table, trades)
    if work.current is None:
        return []
    if work.mark is None:
        # Never complete: partitions without any candle are still to be made, the others were made.
        files = live_files(table, "window_start", timeframe.grain, table.metadata.current_snapshot_id)
        made = timeframe.grain.partitions(f.span for f in files)
        return subtract(timeframe.grain.partitions(trades_spans(trades, work.current)), made)
    if work.reason is not None:
        return trades_spans(trades, work.current)
    # What another writer did to the candles is no reason to look away.
    return [*work.changes.bounds, *subtract(work.mark.open, work.mark.touched)]


def validate(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    *,
    reconciled: Done | None = None,
    told: Sequence[Interval] = (),
    now: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Every check of one candle table.

    Rows and gaps are looked at in whole partitions; what is compared with trades, or with 1m, are the windows
    of the intervals. Nothing is compared behind the lines of retention, where the other side is gone: such
    windows are counted.

    Args:
        lake: where the tables are.
        engine: the session to recompute totals in.
        timeframe: the candle table.
        intervals: what to examine.
        reconciled: what a run has just made equal to the trades: it is compared with trades at that snapshot,
            and the windows that the run refused are named. Without it, windows that are dirty since the
            watermark are left out and counted, and all others are held to the current trades.
        told: partitions whose refused windows another call has named.
        now: the clock for freshness.
        progress: told in words what is being done.

    Returns:
        A finding for each of `CHECKS`, in their order.

    Raises:
        MissingTradesError: the candles were made from trades, and there are none any more.
    """
    tables = {each: lake.candles(each) for each in (timeframe, TIMEFRAMES[0])}
    trades = lake.trades()
    reject_missing_trades(tables[timeframe], trades)  # an outage is no failed check
    side, minutes = (_Side.of(tables[each], trades, each) for each in (timeframe, TIMEFRAMES[0]))
    snapshot, compared = trades.metadata.current_snapshot_id, timeframe.align(intervals)
    if reconciled:
        snapshot = reconciled.snapshot
        compared = subtract(reconciled.intervals, [r.window for r in reconciled.refused])
    with_trades = _Scope.of(timeframe, compared, [] if reconciled else side.pending, side.behind(compared))
    with_minutes = _Scope.of(
        timeframe,
        compared,
        timeframe.align([*side.pending, *minutes.pending]),
        timeframe.align([*side.behind(compared), *minutes.behind(compared)]),
    )
    unlike = _incomparable(side, minutes)
    gaps = Gaps(timeframe, pending=side.pending, too_late=side.too_late, expired=side.lines.expired)
    found: dict[str, list[Finding]] = {check.name: [] for check in CHECKS}
    whole = coalesce(timeframe.grain.partitions(intervals))
    for chunk in _chunks(whole, timeframe) or [[]]:
        if progress and chunk:
            progress(f"{timeframe.table}: checking {chunk[0].start:%Y-%m-%d} to {chunk[-1].end:%Y-%m-%d}")
        stored = side.read(chunk)
        for finding in checks.row_findings(stored, timeframe):
            found[finding.check].append(finding)
        part = intersect_all(chunk, with_trades.examined)
        rows, wanted = _only(stored, part), _wanted(engine, trades, snapshot, timeframe, part)
        found["reconciles_with_trades"].append(checks.reconciles(rows, wanted, timeframe))
        if not unlike:
            part = intersect_all(chunk, with_minutes.examined)
            rows, ones = _only(stored, part), _only(minutes.read(part), part)
            found["timeframes_agree"].append(checks.timeframes_agree(rows, ones, timeframe))
        gaps.look(stored, chunk)
    found["reconciles_with_trades"].append(with_trades.left_out("reconciles_with_trades", timeframe))
    found["timeframes_agree"].append(unlike or with_minutes.left_out("timeframes_agree", timeframe))
    for refused in _refused(side, subtract(whole, told), reconciled):
        found[refused.check].append(refused)
    found["gaps"] = [gaps.finding()]
    found["freshness"] = [_freshness(side, trades, now or datetime.now(UTC))]
    found["trade_times"] = [_trade_times(engine, trades, snapshot, timeframe)]
    return [merged(parts) for parts in found.values()]


def _refused(side: _Side, whole: Sequence[Interval], reconciled: Done | None) -> list[Finding]:
    """A finding for each check that windows break which were therefore not stored."""
    mark, grain = Watermark.of(side.table), side.timeframe.grain
    named = {*(mark.refused if mark else ()), *(reconciled.refused if reconciled else ())}
    windows = sorted((r for r in named if intersect_all([r.window], whole)), key=lambda r: (r.window, str(r)))
    return [
        Finding(
            check,
            side.timeframe.name,
            0,
            failures=len(broken),
            partitions=tuple(grain.key(p) for p in grain.partitions(r.window for r in broken)),
            note=f"refused before the commit, and not stored: {'; '.join(map(str, broken[:SHOWN]))}. "
            "Their trades have to be corrected",
        )
        for check in dict.fromkeys(r.check for r in windows)
        if (broken := [r for r in windows if r.check == check])
    ]


def _chunks(whole: Sequence[Interval], timeframe: Timeframe) -> list[list[Interval]]:
    lots: list[list[Interval]] = []
    for partition in timeframe.grain.partitions(whole):
        if lots and partition.end - lots[-1][0].start <= _CHUNK:
            lots[-1].append(partition)
        else:
            lots.append([partition])
    return [coalesce(lot) for lot in lots]


@dataclass(frozen=True)
class _Scope:
    """Which of some windows are held to the other side, and how many are not: pending, or behind a line."""

    examined: Sequence[Interval]
    pending: int
    behind: int

    @classmethod
    def of(
        cls,
        timeframe: Timeframe,
        windows: Sequence[Interval],
        pending: Sequence[Interval],
        behind: Sequence[Interval],
    ) -> "_Scope":
        """What is left of some windows; what is behind a line is not counted as pending too."""

        def count(left_out: Sequence[Interval]) -> int:
            return sum((i.end - i.start) // timeframe.length for i in left_out)

        gone = intersect_all(windows, behind)
        waiting = subtract(intersect_all(windows, pending), gone)
        return cls(subtract(windows, [*gone, *waiting]), count(waiting), count(gone))

    def left_out(self, check: str, timeframe: Timeframe) -> Finding:
        return checks.left_out(check, timeframe, pending=self.pending, behind=self.behind)


def _wanted(
    engine: Engine, trades: Table, snapshot: int | None, timeframe: Timeframe, examined: Sequence[Interval]
) -> pl.DataFrame:
    """The totals of the trades, read only where there are any."""
    if snapshot is None:
        return totals(engine, trades, 0, timeframe, [])
    days = coalesce(Grain.DAY.partitions(trades_spans(trades, snapshot)))
    return totals(engine, trades, snapshot, timeframe, intersect_all(examined, days))


def _incomparable(side: _Side, minutes: _Side) -> Finding | None:
    """Tables are held to 1m only where both claim to be up to date, and both have been made."""
    if side.timeframe == minutes.timeframe or minutes.table.current_snapshot() is None:
        return Finding("timeframes_agree", side.timeframe.name, 0)
    if Watermark.of(side.table) is None or Watermark.of(minutes.table) is None:
        return Finding("timeframes_agree", side.timeframe.name, 0, note="not both tables are complete yet")
    return None


def _only(rows: pl.DataFrame, windows: Sequence[Interval]) -> pl.DataFrame:
    return rows.filter(inside("window_start", windows))


def _freshness(side: _Side, trades: Table, now: datetime) -> Finding:
    """Behind since the first trades snapshot that the watermark has not reached."""
    work = OpenWork.of(side.table, trades)
    complete = work.mark.complete if work.mark else None
    since = None if work.is_done else behind_since(trades, complete)
    lag = now - since if since else timedelta(0)
    late = lag > side.timeframe.warn
    note = f"behind the trades for {lag}" if since else "up to date"
    if since is None and work.open:
        note = f"{len(work.open)} intervals are open since an earlier run, or another writer touched them"
    return Finding(
        "freshness",
        side.timeframe.name,
        1,
        failures=int(late),
        note=note,
        numbers=(("lag_seconds", lag.total_seconds()),),
    )


def _trade_times(engine: Engine, trades: Table, snapshot: int | None, timeframe: Timeframe) -> Finding:
    """Trades of impossible times, in any market: no candle is made of them."""
    if snapshot is None:
        return Finding("trade_times", timeframe.name, 0)
    times = trading_times()
    examined = sum(file.record_count for file in data_files(trades, snapshot))
    markets = rows_outside(engine, trades, snapshot, times)
    if not markets:
        return Finding("trade_times", timeframe.name, examined)
    first, count = markets[0], sum(market.rows for market in markets)
    note = (
        f"{count:,} trades of {len(markets):,} markets have no time in {times} and are in no candle; "
        f"the first market is {first.exchange} {first.symbol}, with {first.rows:,} from {first.earliest} "
        f"to {first.latest}"
    )
    rows = pl.DataFrame(markets[:SHOWN], schema=_OUTSIDE)
    return Finding("trade_times", timeframe.name, examined, failures=count, rows=rows, note=note)


_OUTSIDE = {
    "exchange": pl.String,
    "symbol": pl.String,
    "rows": pl.Int64,
    "earliest": pl.String,
    "latest": pl.String,
}
