"""The command line: `python -m bench.soak [--quick]`."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.environment import describe_environment
from bench.lake import ROOT, bench_settings, open_lake
from bench.soak.assertions import Assertion, TableSize, check_equality, speed_wish
from bench.soak.generator import LATE_SHARE, TradeGenerator
from bench.soak.run import LAG, Plan, SoakResult, run_soak
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.lake.candles import MAX_FILES
from k2_ohlcv.lake.schemas import MIN_SNAPSHOTS_KEPT

_DAY = 288
_FULL = Plan(TradeGenerator(markets=50, trades=2_000), batches=_DAY, steps=4 * _DAY, after=20)
_QUICK = Plan(TradeGenerator(markets=5, trades=60), batches=4, steps=2, after=1)

#: What a table's metadata may come to, whatever was done to it: some 1 kB a snapshot, and as much again.
_MOST_BYTES = 300_000
#: PyIceberg merges the manifests of appends when there are a hundred.
_MOST_MANIFESTS = 128


def soak(
    quick: Annotated[bool, typer.Option("--quick", help="A few batches, to see that all works.")] = False,
    batches: Annotated[int | None, typer.Option(min=2, help="Batches of the day; 288 make one.")] = None,
    trades: Annotated[int | None, typer.Option(min=1, help="Trades in a batch.")] = None,
    history: Annotated[int | None, typer.Option(min=2, help="Cheap commits after the day.")] = None,
    home: Annotated[Path, typer.Option(help="Its lake: removed first, and left there.")] = ROOT / "soak",
) -> None:
    """A day of trading in fast time: batches of five minutes, some trades late, five tables after each.

    Facts that must hold end it with exit code 1 where they do not. Times are shown as met or missed.
    """
    default = _QUICK if quick else _FULL
    feed = TradeGenerator(default.feed.markets, trades or default.feed.trades)
    plan = Plan(feed, batches or default.batches, history or default.steps, default.after)
    shutil.rmtree(home, ignore_errors=True)
    lake = open_lake(home)
    console, machine, started = Console(stderr=True), describe_environment(), time.monotonic()
    with console.status("starting") as status, open_engine(bench_settings(home)) as engine:
        seen = run_soak(lake, engine, plan, status.update)
        status.update("comparing every candle with what DuckDB makes")
        facts = [check_equality(lake, home, seen.trades), *_required_assertions(seen), *_wishes(plan, seen)]
    text = "\n".join(_report_lines(plan, seen, facts, machine, time.monotonic() - started)) + "\n"
    (home / "soak.txt").write_text(text, encoding="utf-8")
    print(text, end="")
    if any(fact.is_required and not fact.is_true for fact in facts):
        raise typer.Exit(1)


def _required_assertions(seen: SoakResult) -> Iterator[Assertion]:
    worst = max(seen.crowd.values())
    yield Assertion(
        f"at most {MAX_FILES} data files in any partition of a candle table, after any batch",
        ", ".join(f"{name} {count}" for name, count in seen.crowd.items()),
        is_true=worst <= MAX_FILES,
    )
    yield Assertion("a refresh of tables that are current commits nothing", "none did", is_true=seen.idle)
    for what, most, values in (
        ("snapshots", MIN_SNAPSHOTS_KEPT + 1, {n: s.snapshots for n, s in seen.end.items()}),
        ("manifests", _MOST_MANIFESTS, {n: s.manifests for n, s in seen.end.items()}),
        ("bytes of metadata.json", _MOST_BYTES, {n: s.bytes for n, s in seen.end.items()}),
    ):
        found = ", ".join(f"{name} {value:,}" for name, value in values.items())
        yield Assertion(f"at most {most:,} {what} a table", found, is_true=max(values.values()) <= most)


def _wishes(plan: Plan, seen: SoakResult) -> Iterator[Assertion]:
    day = plan.batches
    few = min(20, max(1, day // 2))
    each = {f"the day's last refreshes of {t.name}": seen.refreshes[t.name] for t in TIMEFRAMES}
    each |= {"the five refreshes together": seen.rounds, "appends of batches": seen.appends}
    for what, times in each.items():
        yield speed_wish(f"{what} no slower than its first", times[:few], times[day - few : day])
    yield speed_wish("the five together after the history, as at first", seen.rounds[:few], seen.rounds[day:])
    for table, times in seen.commits.items():
        few = min(20, len(times) // 2)
        yield speed_wish(
            f"commits to {table} at the end of the history, as at its start", times[:few], times[-few:]
        )


def _report_lines(
    plan: Plan, seen: SoakResult, facts: Sequence[Assertion], machine: Sequence[str], seconds: float
) -> Iterator[str]:
    yield (
        f"Soak: {plan.batches} batches of five minutes, {plan.feed.markets} markets, {plan.feed.trades:,} "
        f"trades a batch, {LATE_SHARE:.0%} of them late by 5 minutes to 4 days; in {seconds:.0f} s"
    )
    yield (
        f"history: then {plan.steps:,} appends of one trade and as many commits to the 1m table, of a file "
        f"replaced by its own rows, all tables refreshed after every {LAG}; then {plan.after} batches more"
    )
    yield from machine
    yield ""
    header = ("table", "metadata.json", "manifests", "their bytes", "snapshots", "files", "in the fullest")
    yield from _sizes_table("after the day", header, seen.day)
    yield from _sizes_table("at the end", header, seen.end)
    yield from map(str, facts)


def _sizes_table(when: str, header: Sequence[str], sizes: Mapping[str, TableSize]) -> Iterator[str]:
    yield when
    yield "  ".join(f"{word:>15}" for word in header)
    for name, size in sizes.items():
        cells = [name, *(f"{value:,}" for value in astuple(size))]
        yield "  ".join(f"{cell:>15}" for cell in cells)
    yield ""


app = typer.Typer(add_completion=False)
app.command()(soak)

if __name__ == "__main__":
    app(prog_name="python -m bench.soak")
