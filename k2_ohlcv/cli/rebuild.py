"""`k2-ohlcv rebuild`: the rebuild jobs over days, one run each."""

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

#: So many empty partitions in a row are cheaper to record than to name apart.
_GAP = 7
_ALL_DAYS = Interval(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


@dataclass(frozen=True)
class TableResult:
    """What a rebuild did to one table."""

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
    """What a rebuild did."""

    tables: tuple[TableResult, ...]
    run_ids: tuple[str, ...]
    checks: dict[str, dict[str, bool]]

    @property
    def is_committed(self) -> int:
        """Windows that are now otherwise than before."""
        return sum(t.counts.written for t in self.tables)


def rebuild_tables(terminal: Console, name: str, start: str | None, end: str | None) -> None:
    """Rebuild and show what came of it.

    Args:
        terminal: where to show it.
        name: a timeframe, or `all`.
        start: the first day, or None for the first that has trades or candles.
        end: the day after the last, or None for the last that has trades or candles.

    Raises:
        UsageError: a day is not one, or there are no partitions there.
        RunFailedError: a run failed.
    """
    began = time.monotonic()
    timeframes = TIMEFRAMES if name == "all" else (find_timeframe(name),)
    spans = _spans(terminal, timeframes, start, end)
    rebuilt = RebuildResult(tuple(TableResult(t.table, t.name) for t in timeframes), (), {})
    if not spans:
        terminal.print_note("There are no trades and no candles there: ingest some first.")
    else:
        rebuilt = run_rebuilds(terminal, timeframes, spans, skip_expired=not start)
    seconds = round(time.monotonic() - began, 3)
    terminal.print_json(
        {
            "tables": [t.as_json() for t in rebuilt.tables],
            "run_ids": list(rebuilt.run_ids),
            "seconds": seconds,
        }
    )
    if spans:
        terminal.print_text(result_table(rebuilt.tables))
        terminal.print_text(summary_text(rebuilt, seconds))


def run_rebuilds(
    terminal: Console,
    timeframes: Sequence[Timeframe],
    spans: Mapping[Grain, Sequence[Interval]],
    *,
    skip_expired: bool = False,
) -> RebuildResult:
    """Run the jobs of these timeframes over the partitions that spans of days touch, by their grain.

    One run for each job, whatever the number of spans: only a run over everything can move the watermark.
    It names the partitions of the last span; those of the others are in its config. A range from the first
    span to the last would have Dagster record every empty partition between them, 54 ms each.
    """
    with terminal.progress("rebuilding", total=len(timeframes)) as steps:
        steps.start_step("starting Dagster")
        from k2_ohlcv.cli.dagster_instance import open_instance
        from k2_ohlcv.cli.dagster_runs import run_job
        from k2_ohlcv.definitions import build_definitions
        from k2_ohlcv.defs.jobs import rebuild_jobs

        definitions = build_definitions(terminal.settings)
        results: list[TableResult] = []
        run_ids: list[str] = []
        checks: dict[str, dict[str, bool]] = {}
        with open_instance(terminal.settings) as instance:
            chosen_of = {
                name: [t for t in timeframes if t in tables and t.grain in spans]
                for name, tables in rebuild_jobs(terminal.settings).items()
            }
            blocks = _blocks_by_job(terminal, definitions, chosen_of, spans)
            for name, (*others, last) in blocks.items():
                chosen, grain = chosen_of[name], chosen_of[name][0].grain
                job = definitions.resolve_job_def(name)
                also = [f"{other.start:%Y-%m-%d}/{other.end:%Y-%m-%d}" for other in others]
                config = {"extra_days": also, "skip_expired": skip_expired}
                ended = run_job(job, instance, grain, last, [t.table for t in chosen], config=config)
                run_ids.append(ended.run_id)
                checks |= ended.checks
                for one in chosen:
                    results.append(_result(one, ended))
                    steps.finish_step(f"{one.table}: {results[-1].counts}")
    return RebuildResult(tuple(results), tuple(run_ids), checks)


def result_table(results: Iterable[TableResult]) -> object:
    """The results as a table for people."""
    made = table("table", "added#", "changed#", "removed#", "unchanged#", "trades read#", "seconds#")
    for r in results:
        counts = (*r.counts.as_json().values(), r.trades_read)
        made.add_row(r.table, *(f"{count:,}" for count in counts), f"{r.seconds:.2f}")
    return made


def summary_text(rebuilt: RebuildResult, seconds: float) -> str:
    """What it comes to, in a line."""
    changed = f"{rebuilt.is_committed:,} windows written" if rebuilt.is_committed else "Nothing changed"
    passed = sum(ok for checks in rebuilt.checks.values() for ok in checks.values())
    total = sum(len(checks) for checks in rebuilt.checks.values())
    return f"{changed}; {passed} of {total} checks passed; {seconds:.1f} s."


def _spans(
    terminal: Console, timeframes: Sequence[Timeframe], start: str | None, end: str | None
) -> dict[Grain, list[Interval]]:
    """The days asked for, by the grain of the tables. With an end left open, the blocks that have data."""
    first, last = (day_start(parse_day(text)) if text else None for text in (start, end))
    grains = {grain: [t for t in timeframes if t.grain is grain] for grain in Grain}
    if first and last:
        if first >= last:
            raise UsageError(f"--to {end} is not after --from {start}: it names the day after the last one")
        return {grain: [Interval(first, last)] for grain, tables in grains.items() if tables}
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.lake.metadata.table_stats import find_data_blocks

    lake = Lake.open(terminal.settings)
    blocks = {grain: find_data_blocks(lake, tables, gap=_GAP) for grain, tables in grains.items() if tables}
    asked = Interval(first or _ALL_DAYS.start, last or _ALL_DAYS.end)
    clipped = {grain: intersect_all(found, [asked]) for grain, found in blocks.items()}
    return {grain: found for grain, found in clipped.items() if found}


def _blocks_by_job(
    terminal: Console,
    definitions: "dg.Definitions",
    chosen_of: Mapping[str, Sequence[Timeframe]],
    spans: Mapping[Grain, Sequence[Interval]],
) -> dict[str, list[Interval]]:
    """The partitions of each job. Where partitions begin with retention, some tables may have none there.

    Raises:
        UsageError: none of the tables has any.
    """
    found: dict[str, list[Interval]] = {}
    missing: list[UsageError] = []
    for name, chosen in chosen_of.items():
        if chosen:
            try:
                found[name] = _partition_blocks(definitions, chosen, spans[chosen[0].grain])
            except UsageError as error:
                missing.append(error)
    if missing and not found:
        raise missing[0]
    for left_out in missing:
        terminal.print_note(f"Left out: {left_out}")
    return found


def _partition_blocks(
    definitions: "dg.Definitions", timeframes: Sequence[Timeframe], spans: Sequence[Interval]
) -> list[Interval]:
    """The whole partitions that spans touch, as blocks, of those partitions that the tables all have."""
    from k2_ohlcv.defs.partitions import window_interval

    blocks = [
        Interval(touched[0].start, touched[-1].end)
        for span in spans
        if (touched := timeframes[0].grain.partitions([span]))
    ]
    for one in timeframes:
        keys = definitions.resolve_assets_def(one.table).partitions_def
        assert keys is not None
        windows = [keys.get_first_partition_window(), keys.get_last_partition_window()]  # type: ignore[attr-defined]
        there = Interval(window_interval(windows[0]).start, window_interval(windows[1]).end)
        blocks = intersect_all(blocks, [there])
        if not blocks:
            raise UsageError(
                f"{one.table} has no partitions in {', '.join(map(str, spans))}: they go from "
                f"{there.start:%Y-%m-%d} to {there.end:%Y-%m-%d}. K2_START_DATE sets where they begin."
            )
    return blocks


def _result(one: Timeframe, ended: "RunResult") -> TableResult:
    parts = ended.materialized.get(one.table, [])
    whole = next((part for part in parts if "seconds" in part), {})
    snapshot = whole.get("trades_snapshot")
    return TableResult(
        table=one.table,
        timeframe=one.name,
        trades_snapshot=int(str(snapshot)) if snapshot not in {None, "None"} else None,
        trades_read=int(str(whole.get("trades_read", 0))),
        seconds=float(str(whole.get("seconds", 0.0))),
        partitions=len(parts),
        counts=sum(map(WindowCounts.from_metadata, parts), WindowCounts()),
    )
