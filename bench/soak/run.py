"""The steps of the soak: appends of batches, and a refresh of every candle table after each.

Then follow cheap commits, as many as in four days, and some more batches. These show what becomes slower with
a long history.
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

#: Shows a message about the current work.
Report = Callable[[str], None]
#: Cheap steps between two refreshes. The candles lag behind the trades by up to four hours meanwhile.
LAG = 48


@dataclass(frozen=True)
class Plan:
    """The size of the soak: batches of the day, cheap steps after the day, and batches after the steps."""

    generator: TradeGenerator
    batches: int
    steps: int
    after: int


@dataclass
class SoakResult:
    """The measurements of a soak.

    Attributes:
        appends: the seconds of each append of a batch.
        refreshes: the seconds of each refresh, by timeframe.
        commits: the seconds of each cheap commit, by table.
        trades: the number of appended trades.
        most_files: by timeframe, the largest number of small files in a partition after any batch.
        day: the sizes of the tables after the day.
        end: the sizes of the tables at the end.
        idle: whether a second refresh immediately after the last batch committed nothing.
    """

    appends: list[float] = field(default_factory=list)
    refreshes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    commits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    trades: int = 0
    most_files: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    day: dict[str, TableSize] = field(default_factory=dict)
    end: dict[str, TableSize] = field(default_factory=dict)
    idle: bool = True

    @property
    def rounds(self) -> list[float]:
        """The seconds of all five refreshes of each batch."""
        return [sum(seconds) for seconds in zip(*self.refreshes.values(), strict=True)]


def run_soak(lake: Lake, engine: Engine, plan: Plan, show: Report) -> SoakResult:
    """Run all batches and steps."""
    result = SoakResult()
    for number in range(plan.batches):
        show(f"batch {number + 1} of {plan.batches}{_report_pace(result)}")
        _run_batch(lake, engine, plan.generator, number, result)
    result.day = measure_sizes(lake)
    for step in range(plan.steps):
        if step % 10 == 0:
            show(f"history after the day: {step} of {plan.steps} commits")
        _run_step(lake, engine, plan.generator, plan.batches + step, result)
    for number in range(plan.after):
        show(f"batch {number + 1} of {plan.after} after the history{_report_pace(result)}")
        _run_batch(lake, engine, plan.generator, plan.batches + plan.steps + number, result)
    result.idle = not any(refresh(lake, engine, timeframe).committed for timeframe in TIMEFRAMES)
    result.end = measure_sizes(lake)
    return result


def _run_batch(
    lake: Lake, engine: Engine, generator: TradeGenerator, number: int, result: SoakResult
) -> None:
    """Append one batch as ingestion does, and refresh every table as its sensor would."""
    incoming = generator.batch(number)
    started = time.perf_counter()
    dedupe_result = trades.append_trades(lake, incoming, datetime.now(UTC))
    result.appends.append(time.perf_counter() - started)
    result.trades += int(dedupe_result.new.sum())
    for timeframe in TIMEFRAMES:
        name, report = timeframe.name, refresh(lake, engine, timeframe)
        result.refreshes[name].append(report.seconds)
        most_files = TableSize.measure(lake.candles(timeframe)).most_files
        result.most_files[name] = max(result.most_files[name], most_files)


def _run_step(lake: Lake, engine: Engine, generator: TradeGenerator, number: int, result: SoakResult) -> None:
    """Append one trade, and replace a file of the 1m table by its own rows. Both commits are cheap."""
    batch = generator.batch(number)
    last_trade = dedupe.TradeBatch(
        batch.rows.slice(batch.rows.num_rows - 1), batch.markets, batch.generated_id[-1:], np.arange(1)
    )
    started = time.perf_counter()
    dedupe_result = trades.append_trades(lake, last_trade, datetime.now(UTC))
    result.commits["trades"].append(time.perf_counter() - started)
    result.trades += int(dedupe_result.new.sum())
    finest = find_timeframe("1m")
    change = _rewrite_file(lake.candles(finest), number)
    table = lake.candles(finest)
    started = time.perf_counter()
    commit_change(table, change)
    result.commits["1m"].append(time.perf_counter() - started)
    if number % LAG == LAG - 1:
        for timeframe in TIMEFRAMES:
            refresh(lake, engine, timeframe)


def _rewrite_file(table: Table, number: int) -> TableCommit:
    """A commit that replaces a data file of the first day by a file of the same rows."""
    day = is_within("window_start", [Grain.DAY.partition(FIRST_BATCH)])
    task = min(table.scan(row_filter=day).plan_files(), key=lambda t: t.file.file_path)
    rows = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue()).to_table([task])
    return TableCommit((task.file,), rows, {"k2.soak": str(number)}, carry_over_summary(table))


def _report_pace(result: SoakResult) -> str:
    if not result.appends:
        return ""
    return f" (append {result.appends[-1]:.2f} s, five refreshes {result.rounds[-1]:.2f} s)"
