"""Findings about a candle table as a whole: refused windows, freshness, and trades of impossible times.

Checks of stored rows are in `frames.checks`, comparisons in `validation_comparison`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import Interval, intersect_all
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.engine.impossible_times import find_impossible_times
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.frames.candles import MAX_SAMPLE_ROWS
from k2_ohlcv.frames.checks import Finding
from k2_ohlcv.lake.metadata.files import data_files
from k2_ohlcv.lake.metadata.lag import find_stale_since
from k2_ohlcv.lake.metadata.pending_changes import PendingChanges
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.reports import ReconciledWindows
from k2_ohlcv.operations.validation_scope import CandleTableState

_IMPOSSIBLE_TIMES_SCHEMA = {
    "exchange": pl.String,
    "symbol": pl.String,
    "rows": pl.Int64,
    "earliest": pl.String,
    "latest": pl.String,
}


def find_refused(
    candles: CandleTableState, partitions: Sequence[Interval], reconciled: ReconciledWindows | None
) -> list[Finding]:
    """Find windows that were not committed because they break an invariant.

    Args:
        candles: the candle table, with the refused windows of its watermark.
        partitions: only windows in these partitions are reported.
        reconciled: the windows of the current run, with its refused windows.

    Returns:
        One finding for each failed check.
    """
    mark, grain = Watermark.from_table(candles.table), candles.timeframe.grain
    refused = {*(mark.refused if mark else ()), *(reconciled.refused if reconciled else ())}
    in_partitions = (r for r in refused if intersect_all([r.window], partitions))
    windows = sorted(in_partitions, key=lambda r: (r.window, str(r)))
    return [
        Finding(
            check,
            candles.timeframe.name,
            0,
            failures=len(failed),
            partitions=tuple(grain.key(p) for p in grain.partitions(r.window for r in failed)),
            note="refused before the commit, and not stored: "
            f"{'; '.join(map(str, failed[:MAX_SAMPLE_ROWS]))}. "
            "Correct their trades",
        )
        for check in dict.fromkeys(r.check for r in windows)
        if (failed := [r for r in windows if r.check == check])
    ]


def measure_freshness(candles: CandleTableState, trades: Table, now: datetime) -> Finding:
    """Measure the lag: the age of the first trades snapshot after the watermark."""
    pending = PendingChanges.find(candles.table, trades)
    complete = pending.watermark.complete if pending.watermark else None
    stale_since = None if pending.is_up_to_date else find_stale_since(trades, complete)
    lag = now - stale_since if stale_since else timedelta(0)
    note = f"behind the trades for {lag}" if stale_since else "up to date"
    if stale_since is None and pending.open_intervals:
        note = (
            f"{len(pending.open_intervals)} intervals are open: an earlier run left them open, or another "
            "writer changed them"
        )
    return Finding(
        "freshness",
        candles.timeframe.name,
        1,
        failures=int(lag > candles.timeframe.warn_after),
        note=note,
        numbers=(("lag_seconds", lag.total_seconds()),),
    )


def measure_trade_times(engine: Engine, trades: Table, snapshot: int | None, timeframe: Timeframe) -> Finding:
    """Count trades of impossible times, in all markets. Candles leave these trades out."""
    if snapshot is None:
        return Finding("trade_times", timeframe.name, 0)
    times = possible_trade_times()
    examined = sum(file.record_count for file in data_files(trades, snapshot))
    markets = find_impossible_times(engine, trades, snapshot, times)
    if not markets:
        return Finding("trade_times", timeframe.name, examined)
    first, count = markets[0], sum(market.rows for market in markets)
    note = (
        f"{count:,} trades of {len(markets):,} markets have times outside of {times} and are in no candle; "
        f"the first market is {first.exchange} {first.symbol}, with {first.rows:,} from {first.earliest} "
        f"to {first.latest}"
    )
    rows = pl.DataFrame(markets[:MAX_SAMPLE_ROWS], schema=_IMPOSSIBLE_TIMES_SCHEMA)
    return Finding("trade_times", timeframe.name, examined, failures=count, rows=rows, note=note)
