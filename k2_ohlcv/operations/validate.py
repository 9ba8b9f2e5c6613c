"""Validation: compare what is stored with what must hold of it, reading tables and trades on its own.

What the checks are is in `frames.checks`. Which windows are compared is in `validation_scope`. A table that
cannot be read raises: an outage is no failed check.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all, subtract
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.engine.impossible_times import find_impossible_times
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.totals import TotalsCache, compute_totals
from k2_ohlcv.frames import checks
from k2_ohlcv.frames.candles import MAX_SAMPLE_ROWS, is_in_intervals
from k2_ohlcv.frames.checks import CHECKS, Finding, merge_findings
from k2_ohlcv.frames.gaps import GapFinder
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.lag import find_stale_since
from k2_ohlcv.lake.metadata.manifests import data_files
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges, reject_missing_trades
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.reports import ReconciledWindows
from k2_ohlcv.operations.validation_scope import (
    CandleTableState,
    ComparisonScope,
    find_not_comparable,
    split_into_chunks,
)


def validate(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    *,
    reconciled: ReconciledWindows | None = None,
    earlier_findings: Sequence[Interval] = (),
    now: datetime | None = None,
    cache: TotalsCache | None = None,
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
        earlier_findings: partitions whose refused windows another call has named.
        now: the clock for freshness.
        cache: totals of trades that are shared with the validations of other tables.
        progress: told in words what is being done.

    Returns:
        A finding for each of `CHECKS`, in their order.

    Raises:
        MissingTradesError: the candles were made from trades, and there are none any more.
    """
    tables = {each: lake.candles(each) for each in (timeframe, TIMEFRAMES[0])}
    trades = lake.trades()
    reject_missing_trades(tables[timeframe], trades)  # an outage is no failed check
    state, minutes = (
        CandleTableState.load(tables[each], trades, each) for each in (timeframe, TIMEFRAMES[0])
    )
    work = _Comparison.prepare(engine, trades, state, minutes, intervals=intervals, reconciled=reconciled)
    gaps = GapFinder(
        timeframe, pending=state.pending, too_late=state.too_late, expired=state.bounds.expired_before
    )
    found: dict[str, list[Finding]] = {check.name: [] for check in CHECKS}
    whole = coalesce(timeframe.grain.partitions(intervals))
    for chunk in split_into_chunks(whole, timeframe) or [[]]:
        if progress and chunk:
            progress(f"{timeframe.table}: checking {chunk[0].start:%Y-%m-%d} to {chunk[-1].end:%Y-%m-%d}")
        stored = state.read(chunk)
        for finding in (*checks.check_rows(stored, timeframe), *work.compare(stored, chunk, cache)):
            found[finding.check].append(finding)
        gaps.add_candles(stored, chunk)
    for finding in (
        *work.uncompared_findings(),
        *_refused_findings(state, subtract(whole, earlier_findings), reconciled),
    ):
        found[finding.check].append(finding)
    found["gaps"] = [gaps.build_finding()]
    found["freshness"] = [_freshness(state, trades, now or datetime.now(UTC))]
    found["trade_times"] = [_trade_times(engine, trades, work.snapshot, timeframe)]
    return [merge_findings(parts) for parts in found.values()]


@dataclass(frozen=True)
class _Comparison:
    """What the windows of a candle table are compared with: trades at a snapshot, and candles of 1m.

    Attributes:
        engine: the session to recompute totals in.
        trades: the trades table.
        snapshot: the trades snapshot that the windows are compared with; None where trades have none.
        candles: the candle table.
        minutes: the candle table of 1m.
        with_trades: the windows that are compared with trades.
        with_minutes: the windows that are compared with 1m.
        not_comparable: the finding that nothing is compared with 1m; None where windows are.
    """

    engine: Engine
    trades: Table
    snapshot: int | None
    candles: CandleTableState
    minutes: CandleTableState
    with_trades: ComparisonScope
    with_minutes: ComparisonScope
    not_comparable: Finding | None

    @classmethod
    def prepare(
        cls,
        engine: Engine,
        trades: Table,
        candles: CandleTableState,
        minutes: CandleTableState,
        *,
        intervals: Sequence[Interval],
        reconciled: ReconciledWindows | None,
    ) -> "_Comparison":
        """The comparison of some intervals, or of what a run has just made equal to the trades."""
        timeframe = candles.timeframe
        snapshot, compared = trades.metadata.current_snapshot_id, timeframe.align(intervals)
        if reconciled:
            snapshot = reconciled.snapshot
            compared = subtract(reconciled.intervals, [r.window for r in reconciled.refused])
        pending, behind = [] if reconciled else candles.pending, candles.outside_bounds(compared)
        with_trades = ComparisonScope.select(timeframe, compared, pending, behind)
        with_minutes = ComparisonScope.select(
            timeframe,
            compared,
            timeframe.align([*candles.pending, *minutes.pending]),
            timeframe.align([*behind, *minutes.outside_bounds(compared)]),
        )
        unlike = find_not_comparable(candles, minutes)
        return cls(engine, trades, snapshot, candles, minutes, with_trades, with_minutes, unlike)

    def compare(
        self, stored: pl.DataFrame, chunk: Sequence[Interval], cache: TotalsCache | None
    ) -> list[Finding]:
        """What differs in a chunk of the stored rows."""
        timeframe = self.candles.timeframe
        part = intersect_all(chunk, self.with_trades.examined)
        found = [checks.check_totals(_rows_in(stored, part), self._totals(part, cache), timeframe)]
        if not self.not_comparable:
            part = intersect_all(chunk, self.with_minutes.examined)
            ones = _rows_in(self.minutes.read(part), part)
            found.append(checks.check_rollup(_rows_in(stored, part), ones, timeframe))
        return found

    def uncompared_findings(self) -> list[Finding]:
        """What is not compared, in numbers."""
        timeframe = self.candles.timeframe
        return [
            self.with_trades.uncompared_finding("reconciles_with_trades", timeframe),
            self.not_comparable or self.with_minutes.uncompared_finding("timeframes_agree", timeframe),
        ]

    def _totals(self, examined: Sequence[Interval], cache: TotalsCache | None) -> pl.DataFrame:
        """The totals of the trades, read only where there are any."""
        timeframe = self.candles.timeframe
        if self.snapshot is None:
            return compute_totals(self.engine, self.trades, 0, timeframe, [])
        days = coalesce(Grain.DAY.partitions(trades_spans(self.trades, self.snapshot)))
        wanted = intersect_all(examined, days)
        return compute_totals(self.engine, self.trades, self.snapshot, timeframe, wanted, cache=cache)


def _refused_findings(
    candles: CandleTableState, whole: Sequence[Interval], reconciled: ReconciledWindows | None
) -> list[Finding]:
    """A finding for each check that windows break which were therefore not stored."""
    mark, grain = Watermark.from_table(candles.table), candles.timeframe.grain
    named = {*(mark.refused if mark else ()), *(reconciled.refused if reconciled else ())}
    windows = sorted((r for r in named if intersect_all([r.window], whole)), key=lambda r: (r.window, str(r)))
    return [
        Finding(
            check,
            candles.timeframe.name,
            0,
            failures=len(broken),
            partitions=tuple(grain.key(p) for p in grain.partitions(r.window for r in broken)),
            note="refused before the commit, and not stored: "
            f"{'; '.join(map(str, broken[:MAX_SAMPLE_ROWS]))}. "
            "Their trades have to be corrected",
        )
        for check in dict.fromkeys(r.check for r in windows)
        if (broken := [r for r in windows if r.check == check])
    ]


def _rows_in(rows: pl.DataFrame, windows: Sequence[Interval]) -> pl.DataFrame:
    return rows.filter(is_in_intervals("window_start", windows))


def _freshness(candles: CandleTableState, trades: Table, now: datetime) -> Finding:
    """Behind since the first trades snapshot that the watermark has not reached."""
    work = PendingChanges.find(candles.table, trades)
    complete = work.watermark.complete if work.watermark else None
    since = None if work.is_up_to_date else find_stale_since(trades, complete)
    lag = now - since if since else timedelta(0)
    late = lag > candles.timeframe.warn_after
    note = f"behind the trades for {lag}" if since else "up to date"
    if since is None and work.open_intervals:
        note = (
            f"{len(work.open_intervals)} intervals are open since an earlier run, or another "
            "writer touched them"
        )
    return Finding(
        "freshness",
        candles.timeframe.name,
        1,
        failures=int(late),
        note=note,
        numbers=(("lag_seconds", lag.total_seconds()),),
    )


def _trade_times(engine: Engine, trades: Table, snapshot: int | None, timeframe: Timeframe) -> Finding:
    """Trades of impossible times, in any market: no candle is made of them."""
    if snapshot is None:
        return Finding("trade_times", timeframe.name, 0)
    times = possible_trade_times()
    examined = sum(file.record_count for file in data_files(trades, snapshot))
    markets = find_impossible_times(engine, trades, snapshot, times)
    if not markets:
        return Finding("trade_times", timeframe.name, examined)
    first, count = markets[0], sum(market.rows for market in markets)
    note = (
        f"{count:,} trades of {len(markets):,} markets have no time in {times} and are in no candle; "
        f"the first market is {first.exchange} {first.symbol}, with {first.rows:,} from {first.earliest} "
        f"to {first.latest}"
    )
    rows = pl.DataFrame(markets[:MAX_SAMPLE_ROWS], schema=_IMPOSSIBLE_TIMES_NOTE)
    return Finding("trade_times", timeframe.name, examined, failures=count, rows=rows, note=note)


_IMPOSSIBLE_TIMES_NOTE = {
    "exchange": pl.String,
    "symbol": pl.String,
    "rows": pl.Int64,
    "earliest": pl.String,
    "latest": pl.String,
}
