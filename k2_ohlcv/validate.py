"""Validation: hold what is stored to what must hold of it, reading tables and trades on its own.

What the checks are is in `domain.checks`. A table that cannot be read raises: an outage is no failed check.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import Table

from k2_ohlcv.domain import checks
from k2_ohlcv.domain.candle import KEY
from k2_ohlcv.domain.checks import CHECKS, Finding, Gap, merged
from k2_ohlcv.domain.frame import CANDLE_TYPES, SHOWN, inside
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.domain.window import DAY, Interval, coalesce, intersect_all, subtract
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.totals import totals
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.changes import changes, trades_spans
from k2_ohlcv.lake.files import live_files, partition_of
from k2_ohlcv.lake.staleness import behind_since
from k2_ohlcv.lake.watermark import Watermark

#: So many days are in memory at once: 31 of 1m with 50 markets are two million rows.
_CHUNK = 31 * DAY


@dataclass(frozen=True)
class _Side:
    """A candle table as it was loaded, and where it is behind the trades."""

    table: Table
    timeframe: Timeframe
    pending: tuple[Interval, ...]

    @classmethod
    def load(cls, lake: Lake, trades: Table, timeframe: Timeframe) -> "_Side":
        table = lake.candles(timeframe)
        mark, current = Watermark.of(table), trades.metadata.current_snapshot_id
        if current is None:
            return cls(table, timeframe, ())
        if mark is None:
            # Never complete: partitions without any candle are still to be made, the others were made.
            files = live_files(table, "window_start", timeframe.grain, table.metadata.current_snapshot_id)
            made = timeframe.grain.partitions(f.span for f in files)
            wanted = timeframe.grain.partitions(trades_spans(trades, current))
            return cls(table, timeframe, tuple(subtract(wanted, made)))
        found = changes(trades, mark.snapshot_id, current)
        spans = found.bounds if found.reason is None else trades_spans(trades, current)
        return cls(table, timeframe, tuple(timeframe.align(spans)))

    def read(self, intervals: Sequence[Interval]) -> pl.DataFrame:
        """The rows of the intervals' partitions, with the key of the partition that each is stored in."""
        wanted = set(self.timeframe.grain.partitions(intervals))
        scan = ArrowScan(self.table.metadata, self.table.io, self.table.schema(), AlwaysTrue())
        frames = [pl.DataFrame(schema={**CANDLE_TYPES, "partition": pl.String})]
        for task in self.table.scan().plan_files():
            stored_in = partition_of(task.file, self.timeframe.grain)
            if stored_in in wanted:
                rows = pl.DataFrame(scan.to_table([task])).cast(pl.Schema(CANDLE_TYPES))
                key = self.timeframe.grain.key(stored_in)
                frames.append(rows.with_columns(pl.lit(key).alias("partition")))
        return pl.concat(frames)


def validate(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    intervals: Sequence[Interval],
    *,
    reconciled: tuple[int | None, Sequence[Interval]] | None = None,
    now: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Every check of one candle table, over whole partitions.

    Args:
        lake: where the tables are.
        engine: the session to recompute totals in.
        timeframe: the candle table.
        intervals: what to examine, widened to whole partitions.
        reconciled: the trades snapshot to which a run has just made some intervals equal: these are compared
            with trades, at that snapshot. Without it, windows that are dirty since the watermark are left
            out and counted, and all others are held to the current trades.
        now: the clock for freshness.
        progress: told in words what is being done.

    Returns:
        A finding for each of `CHECKS`, in their order.
    """
    candles = lake.candles(timeframe)
    trades = lake.trades()
    side = replace(_Side.load(lake, trades, timeframe), table=candles)
    minutes = _Side.load(lake, trades, TIMEFRAMES[0])
    found: dict[str, list[Finding]] = {check.name: [] for check in CHECKS}
    whole = coalesce(timeframe.grain.partitions(intervals))
    for chunk in _chunks(whole, timeframe) or [[]]:
        if progress and chunk:
            progress(f"{timeframe.table}: checking {chunk[0].start:%Y-%m-%d} to {chunk[-1].end:%Y-%m-%d}")
        stored = side.read(chunk)
        part = chunk if reconciled is None else intersect_all(chunk, reconciled[1])
        for finding in checks.row_findings(stored, timeframe):
            found[finding.check].append(finding)
        found["reconciles_with_trades"].append(
            _reconciles(engine, trades, side, stored, chunk, reconciled=reconciled)
        )
        found["timeframes_agree"].append(_agree(side, minutes, stored, part))
        found["gaps"].append(_gaps(side, stored, chunk))
    found["freshness"] = [_freshness(side, trades, now or datetime.now(UTC))]
    return [merged(parts) for parts in found.values()]


def _chunks(whole: Sequence[Interval], timeframe: Timeframe) -> list[list[Interval]]:
    lots: list[list[Interval]] = []
    for partition in timeframe.grain.partitions(whole):
        if lots and partition.end - lots[-1][0].start <= _CHUNK:
            lots[-1].append(partition)
        else:
            lots.append([partition])
    return [coalesce(lot) for lot in lots]


def _reconciles(
    engine: Engine,
    trades: Table,
    side: _Side,
    stored: pl.DataFrame,
    chunk: Sequence[Interval],
    *,
    reconciled: tuple[int | None, Sequence[Interval]] | None,
) -> Finding:
    if reconciled is None:
        snapshot = trades.metadata.current_snapshot_id
        skipped = intersect_all(chunk, side.pending)
        examined = subtract(chunk, skipped)
    else:
        snapshot, skipped, examined = reconciled[0], [], intersect_all(chunk, reconciled[1])
    wanted = totals(engine, trades, 0, side.timeframe, [])
    if snapshot is not None:
        days = coalesce(Grain.DAY.partitions(trades_spans(trades, snapshot)))
        wanted = totals(engine, trades, snapshot, side.timeframe, intersect_all(examined, days))
    rows = stored.filter(inside("window_start", examined))
    pending = sum((i.end - i.start) // side.timeframe.length for i in skipped)
    return checks.reconciles(rows, wanted, side.timeframe, pending=pending)


def _agree(side: _Side, minutes: _Side, stored: pl.DataFrame, chunk: Sequence[Interval]) -> Finding:
    """Held only where both tables claim to be up to date, and both have been made."""
    if side.timeframe == minutes.timeframe or minutes.table.current_snapshot() is None:
        return Finding("timeframes_agree", side.timeframe.name, 0)
    if Watermark.of(side.table) is None or Watermark.of(minutes.table) is None:
        return Finding("timeframes_agree", side.timeframe.name, 0, note="not both tables are complete yet")
    dirty = side.timeframe.align([*side.pending, *minutes.pending])
    both = subtract(chunk, dirty)
    rows = minutes.read(both).filter(inside("window_start", both))
    return checks.timeframes_agree(stored.filter(inside("window_start", both)), rows, side.timeframe)


def _gaps(side: _Side, stored: pl.DataFrame, chunk: Sequence[Interval]) -> Finding:
    found = list(_kinds(side, checks.gaps(stored.filter(inside("window_start", chunk)), side.timeframe)))
    rows = [
        {"exchange": g.exchange, "symbol": g.symbol, "start": g.span.start, "end": g.span.end, "why": why}
        for g, why in found[:SHOWN]
    ]
    counts = [(why, float(sum(kind == why for _, kind in found))) for why in _WHY]
    markets = stored.select(*KEY[:2]).unique().height
    return Finding(
        "gaps",
        side.timeframe.name,
        stored.height,
        rows=pl.DataFrame(rows) if rows else None,
        note=f"{len(found):,} spans in {markets:,} markets" if found else "",
        numbers=tuple(counts),
    )


_WHY = ("no trades then", "not computed yet")


def _kinds(side: _Side, found: Sequence[Gap]) -> Iterator[tuple[Gap, str]]:
    for gap in found:
        yield gap, _WHY[bool(intersect_all([gap.span], side.pending))]


def _freshness(side: _Side, trades: Table, now: datetime) -> Finding:
    """Behind since the first trades snapshot that the watermark has not reached."""
    mark = Watermark.of(side.table)
    since = behind_since(trades, mark.snapshot_id if mark else None)
    lag = now - since if since else timedelta(0)
    late = lag > side.timeframe.warn
    note = f"behind the trades for {lag}" if since else "up to date"
    return Finding(
        "freshness",
        side.timeframe.name,
        1,
        failures=int(late),
        note=note,
        numbers=(("lag_seconds", lag.total_seconds()),),
    )
