"""The course of the soak: trades go in batch by batch, and every candle table is refreshed after each.

Then four further days' worth of commits, made cheaply, and some batches more: what slows down with history
shows there.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import Table

from bench.soak.assertions import TableSize, measure_sizes
from bench.soak.generator import FIRST_BATCH, TradeGenerator
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, find_timeframe
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake import dedupe, trades
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.metadata.files import is_within
from k2_ohlcv.lake.watermark import carry_over_summary
from k2_ohlcv.operations.reconcile import refresh

#: Told in words what is under way.
Report = Callable[[str], None]
#: Steps of the cheap history between two refreshes: in it, trades run ahead of the candles by four hours.
LAG = 48


@dataclass(frozen=True)
class Plan:
    """How much is done: batches of the day, cheap steps of history after it, batches after that."""

    feed: TradeGenerator
    batches: int
    steps: int
    after: int


@dataclass
class SoakResult:
    """What was seen on the way.

    Attributes:
        appends: seconds of each append of a batch.
        refreshes: seconds of each refresh, by timeframe.
        commits: seconds of each cheap commit, by table.
        trades: trades that went in.
        crowd: the most data files that a partition of a candle table had after any batch, by timeframe.
        day: the tables' sizes after the day.
        end: their sizes at the end.
        idle: whether a second refresh right after the last batch committed anything.
    """

    appends: list[float] = field(default_factory=list)
    refreshes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    commits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    trades: int = 0
    crowd: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    day: dict[str, TableSize] = field(default_factory=dict)
    end: dict[str, TableSize] = field(default_factory=dict)
    idle: bool = True

    @property
    def rounds(self) -> list[float]:
        """Seconds of the five refreshes of each batch together."""
        return [sum(each) for each in zip(*self.refreshes.values(), strict=True)]


def run_soak(lake: Lake, engine: Engine, plan: Plan, tell: Report) -> SoakResult:
    """Let it all happen."""
    seen = SoakResult()
    for number in range(plan.batches):
        tell(f"batch {number + 1} of {plan.batches}{_report_pace(seen)}")
        _run_batch(lake, engine, plan.feed, number, seen)
    seen.day = measure_sizes(lake)
    for step in range(plan.steps):
        if step % 10 == 0:
            tell(f"history after the day: {step} of {plan.steps} commits")
        _run_step(lake, engine, plan.feed, plan.batches + step, seen)
    for number in range(plan.after):
        tell(f"batch {number + 1} of {plan.after} after it{_report_pace(seen)}")
        _run_batch(lake, engine, plan.feed, plan.batches + plan.steps + number, seen)
    seen.idle = not any(refresh(lake, engine, each).committed for each in TIMEFRAMES)
    seen.end = measure_sizes(lake)
    return seen


def _run_batch(lake: Lake, engine: Engine, feed: TradeGenerator, number: int, seen: SoakResult) -> None:
    """One batch goes in as ingestion does it, and every table is refreshed as its sensor would."""
    incoming = feed.batch(number)
    started = time.perf_counter()
    verdict = trades.append_trades(lake, incoming, datetime.now(UTC))
    seen.appends.append(time.perf_counter() - started)
    seen.trades += int(verdict.new.sum())
    for each in TIMEFRAMES:
        report = refresh(lake, engine, each)
        seen.refreshes[each.name].append(report.seconds)
        crowd = TableSize.measure(lake.candles(each)).crowd
        seen.crowd[each.name] = max(seen.crowd[each.name], crowd)


def _run_step(lake: Lake, engine: Engine, feed: TradeGenerator, number: int, seen: SoakResult) -> None:
    """One trade, and a commit to the 1m table that replaces a file by its own rows: history, cheaply made."""
    one = feed.batch(number)
    only = dedupe.TradeBatch(
        one.rows.slice(one.rows.num_rows - 1), one.markets, one.generated_id[-1:], np.arange(1)
    )
    started = time.perf_counter()
    verdict = trades.append_trades(lake, only, datetime.now(UTC))
    seen.commits["trades"].append(time.perf_counter() - started)
    seen.trades += int(verdict.new.sum())
    finest = find_timeframe("1m")
    change = _rewrite_file(lake.candles(finest), number)
    table = lake.candles(finest)
    started = time.perf_counter()
    commit_change(table, change)
    seen.commits["1m"].append(time.perf_counter() - started)
    if number % LAG == LAG - 1:
        for each in TIMEFRAMES:
            refresh(lake, engine, each)


def _rewrite_file(table: Table, number: int) -> TableCommit:
    """A commit that replaces a data file of the first day by one of the same rows."""
    day = is_within("window_start", [Grain.DAY.partition(FIRST_BATCH)])
    task = min(table.scan(row_filter=day).plan_files(), key=lambda t: t.file.file_path)
    rows = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue()).to_table([task])
    return TableCommit((task.file,), rows, {"k2.soak": str(number)}, carry_over_summary(table))


def _report_pace(seen: SoakResult) -> str:
    if not seen.appends:
        return ""
    return f" (append {seen.appends[-1]:.2f} s, five refreshes {seen.rounds[-1]:.2f} s)"
