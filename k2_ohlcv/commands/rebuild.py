"""`k2-ohlcv rebuild`: the rebuild jobs over days, one run for each grain of partitions."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from k2_ohlcv.commands.terminal import Terminal, table
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe, parse_day, timeframe
from k2_ohlcv.domain.window import Interval, midnight

if TYPE_CHECKING:
    import dagster as dg

    from k2_ohlcv.commands.launch import Launched

_COUNTS = {
    "added": "windows_added",
    "changed": "windows_changed",
    "removed": "windows_removed",
    "unchanged": "windows_unchanged",
}


@dataclass(frozen=True)
class TableResult:
    """What a rebuild did to one table."""

    table: str
    timeframe: str
    trades_snapshot: int | None = None
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    trades_read: int = 0
    seconds: float = 0.0
    partitions: int = 0


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did."""

    tables: tuple[TableResult, ...]
    run_ids: tuple[str, ...]
    checks: dict[str, dict[str, bool]]

    @property
    def committed(self) -> int:
        """Windows that are now otherwise than before."""
        return sum(t.added + t.changed + t.removed for t in self.tables)


def rebuild_tables(terminal: Terminal, name: str, start: str | None, end: str | None) -> None:
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
    timeframes = TIMEFRAMES if name == "all" else (timeframe(name),)
    span = _span(terminal, timeframes, start, end)
    rebuilt = Rebuilt(tuple(TableResult(t.table, t.name) for t in timeframes), (), {})
    if span is None:
        terminal.note("There are no trades and no candles yet: ingest some first.")
    else:
        rebuilt = run(terminal, timeframes, span)
    seconds = round(time.monotonic() - began, 3)
    terminal.result(
        {"tables": [asdict(t) for t in rebuilt.tables], "run_ids": list(rebuilt.run_ids), "seconds": seconds}
    )
    if span is not None:
        terminal.show(shown(rebuilt.tables))
        terminal.show(said(rebuilt, seconds))


def run(terminal: Terminal, timeframes: Sequence[Timeframe], span: Interval) -> Rebuilt:
    """Run the jobs of these timeframes over the partitions that a span of days touches."""
    with terminal.progress("rebuilding", total=len(timeframes)) as steps:
        steps.doing("starting Dagster")
        from k2_ohlcv.commands.instance import opened
        from k2_ohlcv.commands.launch import launch
        from k2_ohlcv.definitions import build
        from k2_ohlcv.defs.jobs import REBUILD

        definitions = build(terminal.settings)
        results: list[TableResult] = []
        run_ids: list[str] = []
        checks: dict[str, dict[str, bool]] = {}
        with opened(terminal.settings) as instance:
            for grain in Grain:
                chosen = [t for t in timeframes if t.grain is grain]
                whole = _within(definitions, chosen, span)
                if not chosen or whole is None:
                    continue
                job = definitions.resolve_job_def(REBUILD[grain])
                ended = launch(job, instance, grain, whole, [t.table for t in chosen])
                run_ids.append(ended.run_id)
                checks |= ended.checks
                for one in chosen:
                    results.append(_result(one, ended))
                    steps.done(f"{one.table}: {_counts(results[-1])}")
    return Rebuilt(tuple(results), tuple(run_ids), checks)


def shown(results: Iterable[TableResult]) -> object:
    """The results as a table for people."""
    made = table("table", "added#", "changed#", "removed#", "unchanged#", "trades read#", "seconds#")
    for r in results:
        counts = (r.added, r.changed, r.removed, r.unchanged, r.trades_read)
        made.add_row(r.table, *(f"{count:,}" for count in counts), f"{r.seconds:.2f}")
    return made


def said(rebuilt: Rebuilt, seconds: float) -> str:
    """What it comes to, in a line."""
    changed = f"{rebuilt.committed:,} windows written" if rebuilt.committed else "Nothing changed"
    passed = sum(ok for checks in rebuilt.checks.values() for ok in checks.values())
    total = sum(len(checks) for checks in rebuilt.checks.values())
    return f"{changed}; {passed} of {total} checks passed; {seconds:.1f} s."


def _span(
    terminal: Terminal, timeframes: Sequence[Timeframe], start: str | None, end: str | None
) -> Interval | None:
    """The days asked for, filled up with the days that there are; None if there are none."""
    first, last = (midnight(parse_day(text)) if text else None for text in (start, end))
    if first is None or last is None:
        from k2_ohlcv.lake.catalog import Lake
        from k2_ohlcv.lake.inventory import data_span

        lake = Lake.open(terminal.settings)
        spans = [span for one in timeframes if (span := data_span(lake, one))]
        if not spans:
            return None
        days = Interval(min(span.start for span in spans), max(span.end for span in spans))
        # A day asked for that lies beyond the data leaves nothing to do, rather than a wrong order.
        first = first or min(days.start, last or days.start)
        last = last or max(days.end, first)
    if start and end and first >= last:
        raise UsageError(f"--to {end} is not after --from {start}: it names the day after the last one")
    return Interval(first, last) if first < last else None


def _within(
    definitions: "dg.Definitions", timeframes: Sequence[Timeframe], span: Interval
) -> Interval | None:
    """The whole partitions that a span touches, of those that the tables all have."""
    from k2_ohlcv.defs.partitions import interval

    whole: Interval | None = None
    for one in timeframes:
        keys = definitions.resolve_assets_def(one.table).partitions_def
        assert keys is not None
        windows = [keys.get_first_partition_window(), keys.get_last_partition_window()]  # type: ignore[attr-defined]
        there = Interval(interval(windows[0]).start, interval(windows[1]).end)
        touched = one.grain.partitions([span])
        whole = Interval(touched[0].start, touched[-1].end).intersect(whole or there)
        if whole is None or whole.intersect(there) is None:
            raise UsageError(
                f"{one.table} has no partitions in {span}: they go from {there.start:%Y-%m-%d} to "
                f"{there.end:%Y-%m-%d}. K2_START_DATE sets where they begin."
            )
        whole = whole.intersect(there)
    return whole


def _result(one: Timeframe, ended: "Launched") -> TableResult:
    parts = ended.materialized.get(one.table, [])
    whole = parts[0] if parts else {}
    snapshot = whole.get("trades_snapshot")
    return TableResult(
        table=one.table,
        timeframe=one.name,
        trades_snapshot=int(str(snapshot)) if snapshot not in {None, "None"} else None,
        trades_read=int(str(whole.get("trades_read", 0))),
        seconds=float(str(whole.get("seconds", 0.0))),
        partitions=len(parts),
        **{field: sum(int(str(part.get(name, 0))) for part in parts) for field, name in _COUNTS.items()},
    )


def _counts(result: TableResult) -> str:
    return (
        f"{result.added:,} windows added, {result.changed:,} changed, {result.removed:,} removed, "
        f"{result.unchanged:,} unchanged"
    )
