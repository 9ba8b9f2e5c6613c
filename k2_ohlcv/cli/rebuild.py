"""`k2-ohlcv rebuild`: runs the rebuild jobs over some days, one run a job."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import Interval, day_start, intersect_all
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe, find_timeframe, parse_day
from k2_ohlcv.domain.window_counts import WindowCounts

if TYPE_CHECKING:
    import dagster as dg

    from k2_ohlcv.cli.dagster_runs import RunResult

_GAP = 7  # so many empty partitions do not split a block: recording them costs less
_ALL_DAYS = Interval(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


@dataclass(frozen=True)
class TableResult:
    """The result of a rebuild for one table."""

    table: str
    timeframe: str
    trades_snapshot: int | None = None
    counts: WindowCounts = field(default_factory=WindowCounts)
    trades_read: int = 0
    seconds: float = 0.0
    partitions: int = 0

    def as_json(self) -> dict[str, object]:
        """The result as one JSON object."""
        return {
            "table": self.table,
            "timeframe": self.timeframe,
            "trades_snapshot": self.trades_snapshot,
            **self.counts.as_json(),
            "trades_read": self.trades_read,
            "seconds": self.seconds,
            "partitions": self.partitions,
        }


@dataclass(frozen=True)
class RebuildResult:
    """The result of a rebuild for all of its tables."""

    tables: tuple[TableResult, ...]
    run_ids: tuple[str, ...]
    checks: dict[str, dict[str, bool]]

    @property
    def windows_written(self) -> int:
        """How many windows were added, changed or removed."""
        return sum(t.counts.written for t in self.tables)


def rebuild_tables(console: Console, name: str, start: str | None, end: str | None) -> None:
    """Rebuild candle tables and show the result.

    Args:
        console: the output.
        name: a timeframe, or `all`.
        start: the first day; None is the first day that has trades or candles.
        end: the day after the last; None is after the last day that has trades or candles.

    Raises:
        UsageError: a day is invalid, or the tables have no partitions in these days.
        RunFailedError: a run failed.
    """
    began = time.monotonic()
    timeframes = TIMEFRAMES if name == "all" else (find_timeframe(name),)
    spans = _spans(console, timeframes, start, end)
    rebuilt = RebuildResult(tuple(TableResult(t.table, t.name) for t in timeframes), (), {})
    if not spans:
        console.print_note("These days have no trades and no candles: ingest some first.")
    else:
        rebuilt = run_rebuilds(console, timeframes, spans, skip_expired=not start)
    seconds = round(time.monotonic() - began, 3)
    tables = [result.as_json() for result in rebuilt.tables]
    console.print_json({"tables": tables, "run_ids": list(rebuilt.run_ids), "seconds": seconds})
    if spans:
        console.print_text(result_table(rebuilt.tables))
        console.print_text(summary_text(rebuilt, seconds))


def run_rebuilds(
    console: Console,
    timeframes: Sequence[Timeframe],
    spans: Mapping[Grain, Sequence[Interval]],
    *,
    skip_expired: bool = False,
) -> RebuildResult:
    """Run the rebuild jobs of some timeframes over the partitions of some spans of days, given by grain.

    There is one run a job, whatever the number of spans: only a run over all data can set the watermark.
    The run's partitions are those of the last span, and its config has the other spans. Dagster would record
    every empty partition from the first span to the last.
    """
    with console.progress("rebuilding", total=len(timeframes)) as steps:
        steps.start_step("starting Dagster")
        from k2_ohlcv.cli.dagster_instance import open_instance
        from k2_ohlcv.definitions import build_definitions
        from k2_ohlcv.defs.jobs import rebuild_jobs

        definitions = build_definitions(console.settings)
        results: list[TableResult] = []
        run_ids: list[str] = []
        checks: dict[str, dict[str, bool]] = {}
        with open_instance(console.settings) as instance:
            timeframes_by_job = {
                name: [t for t in timeframes if t in tables and t.grain in spans]
                for name, tables in rebuild_jobs(console.settings).items()
            }
            for name, blocks in _blocks_by_job(console, definitions, timeframes_by_job, spans).items():
                job = definitions.resolve_job_def(name)
                run = _run_rebuild(job, instance, timeframes_by_job[name], blocks, skip_expired)
                run_ids.append(run.run_id)
                checks |= run.checks
                for timeframe in timeframes_by_job[name]:
                    results.append(_table_result(timeframe, run))
                    steps.finish_step(f"{timeframe.table}: {results[-1].counts}")
    return RebuildResult(tuple(results), tuple(run_ids), checks)


def _run_rebuild(
    job: "dg.JobDefinition",
    instance: "dg.DagsterInstance",
    timeframes: Sequence[Timeframe],
    blocks: Sequence[Interval],
    skip_expired: bool,
) -> "RunResult":
    """Run one rebuild job over all blocks."""
    from k2_ohlcv.cli.dagster_runs import run_job

    *earlier, last = blocks
    extra_days = [f"{block.start:%Y-%m-%d}/{block.end:%Y-%m-%d}" for block in earlier]
    config = {"extra_days": extra_days, "skip_expired": skip_expired}
    return run_job(job, instance, timeframes[0].grain, last, [t.table for t in timeframes], config=config)


def result_table(results: Iterable[TableResult]) -> object:
    """The results as a table for people."""
    made = table("table", "added#", "changed#", "removed#", "unchanged#", "trades read#", "seconds#")
    for result in results:
        counts = (*result.counts.as_json().values(), result.trades_read)
        made.add_row(result.table, *(f"{count:,}" for count in counts), f"{result.seconds:.2f}")
    return made


def summary_text(rebuilt: RebuildResult, seconds: float) -> str:
    """The result in one line."""
    changed = f"{rebuilt.windows_written:,} windows written" if rebuilt.windows_written else "Nothing changed"
    passed = sum(ok for checks in rebuilt.checks.values() for ok in checks.values())
    total = sum(len(checks) for checks in rebuilt.checks.values())
    return f"{changed}; {passed} of {total} checks passed; {seconds:.1f} s."


def _spans(
    console: Console, timeframes: Sequence[Timeframe], start: str | None, end: str | None
) -> dict[Grain, list[Interval]]:
    """The requested days, by the grain of the tables. Without a start or end, the blocks that have data."""
    first, last = (day_start(parse_day(text)) if text else None for text in (start, end))
    grains = {grain: [t for t in timeframes if t.grain is grain] for grain in Grain}
    if first and last:
        if first >= last:
            raise UsageError(f"--to {end} is not after --from {start}: --to is the day after the last one")
        return {grain: [Interval(first, last)] for grain, tables in grains.items() if tables}
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.lake.metadata.table_stats import find_data_blocks

    lake = Lake.open(console.settings)
    blocks = {grain: find_data_blocks(lake, tables, gap=_GAP) for grain, tables in grains.items() if tables}
    requested = Interval(first or _ALL_DAYS.start, last or _ALL_DAYS.end)
    clipped = {grain: intersect_all(spans, [requested]) for grain, spans in blocks.items()}
    return {grain: spans for grain, spans in clipped.items() if spans}


def _blocks_by_job(
    console: Console,
    definitions: "dg.Definitions",
    timeframes_by_job: Mapping[str, Sequence[Timeframe]],
    spans: Mapping[Grain, Sequence[Interval]],
) -> dict[str, list[Interval]]:
    """The partitions of each job. With `K2_START_DATE=retention` some tables may have none in the spans.

    Raises:
        UsageError: no table has partitions there.
    """
    blocks: dict[str, list[Interval]] = {}
    missing: list[UsageError] = []
    for name, timeframes in timeframes_by_job.items():
        if timeframes:
            try:
                blocks[name] = _partition_blocks(definitions, timeframes, spans[timeframes[0].grain])
            except UsageError as error:
                missing.append(error)
    if missing and not blocks:
        raise missing[0]
    for missed in missing:
        console.print_note(f"Left out: {missed}")
    return blocks


def _partition_blocks(
    definitions: "dg.Definitions", timeframes: Sequence[Timeframe], spans: Sequence[Interval]
) -> list[Interval]:
    """The whole partitions that overlap the spans and that all tables have, as blocks."""
    from k2_ohlcv.defs.partitions import window_interval

    blocks = [
        Interval(partitions[0].start, partitions[-1].end)
        for span in spans
        if (partitions := timeframes[0].grain.partitions([span]))
    ]
    for timeframe in timeframes:
        keys = definitions.resolve_assets_def(timeframe.table).partitions_def
        assert keys is not None
        windows = [keys.get_first_partition_window(), keys.get_last_partition_window()]  # type: ignore[attr-defined]
        defined = Interval(window_interval(windows[0]).start, window_interval(windows[1]).end)
        blocks = intersect_all(blocks, [defined])
        if not blocks:
            raise UsageError(
                f"{timeframe.table} has no partitions in {', '.join(map(str, spans))}. Its partitions are "
                f"from {defined.start:%Y-%m-%d} to {defined.end:%Y-%m-%d}. K2_START_DATE sets the first one."
            )
    return blocks


def _table_result(timeframe: Timeframe, run: "RunResult") -> TableResult:
    from k2_ohlcv.defs.assets.candles import RUN_COUNTS

    parts = run.materialized.get(timeframe.table, [])
    numbers = next((part for part in parts if "seconds" in part), {})
    snapshot, totals = numbers.get("trades_snapshot"), numbers.get(RUN_COUNTS)
    counts = sum(map(WindowCounts.from_metadata, parts), WindowCounts())
    return TableResult(
        table=timeframe.table,
        timeframe=timeframe.name,
        trades_snapshot=int(str(snapshot)) if snapshot not in {None, "None"} else None,
        trades_read=int(str(numbers.get("trades_read", 0))),
        seconds=float(str(numbers.get("seconds", 0.0))),
        partitions=len(parts),
        counts=WindowCounts(**totals) if isinstance(totals, dict) else counts,
    )
