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
from k2_ohlcv.lake.candle_layout import MAX_FILES
from k2_ohlcv.lake.schemas import MIN_SNAPSHOTS_KEPT

_DAY = 288
_FULL = Plan(TradeGenerator(markets=50, trades=2_000), batches=_DAY, steps=4 * _DAY, after=20)
_QUICK = Plan(TradeGenerator(markets=5, trades=60), batches=4, steps=2, after=1)

#: The limit of a table's metadata file: some 1 kB a snapshot, and as much again.
_MAX_METADATA_BYTES = 300_000
#: PyIceberg merges the manifests of appends when a table has a hundred.
_MAX_MANIFESTS = 128


def soak(
    quick: Annotated[bool, typer.Option("--quick", help="A few batches, to test the soak itself.")] = False,
    batches: Annotated[
        int | None, typer.Option(min=2, help="Batches of the day; a full day has 288.")
    ] = None,
    trades: Annotated[int | None, typer.Option(min=1, help="Trades in a batch.")] = None,
    history: Annotated[int | None, typer.Option(min=2, help="Cheap commits after the day.")] = None,
    home: Annotated[
        Path, typer.Option(help="The folder of the lake: removed first, and kept afterwards.")
    ] = ROOT / "soak",
) -> None:
    """Run a day of trading in fast time: batches of five minutes with late trades, and refreshes after each.

    A false required assertion gives exit code 1. Times are shown as met or missed.
    """
    default = _QUICK if quick else _FULL
    generator = TradeGenerator(default.generator.markets, trades or default.generator.trades)
    plan = Plan(generator, batches or default.batches, history or default.steps, default.after)
    shutil.rmtree(home, ignore_errors=True)
    lake = open_lake(home)
    console, environment, started = Console(stderr=True), describe_environment(), time.monotonic()
    with console.status("starting") as status, open_engine(bench_settings(home)) as engine:
        result = run_soak(lake, engine, plan, status.update)
        status.update("comparing every candle with DuckDB's")
        assertions = [
            check_equality(lake, home, result.trades),
            *_required_assertions(result),
            *_wishes(plan, result),
        ]
    text = "\n".join(_report_lines(plan, result, assertions, environment, time.monotonic() - started)) + "\n"
    (home / "soak.txt").write_text(text, encoding="utf-8")
    print(text, end="")
    if any(assertion.is_required and not assertion.is_true for assertion in assertions):
        raise typer.Exit(1)


def _required_assertions(result: SoakResult) -> Iterator[Assertion]:
    most_files = max(result.most_files.values())
    yield Assertion(
        f"at most {MAX_FILES} small data files in any partition of a candle table, after any batch",
        ", ".join(f"{name} {count}" for name, count in result.most_files.items()),
        is_true=most_files <= MAX_FILES,
    )
    yield Assertion(
        "a refresh of tables that are current commits nothing", "none committed", is_true=result.idle
    )
    for name, limit, values in (
        ("snapshots", MIN_SNAPSHOTS_KEPT + 1, {n: s.snapshots for n, s in result.end.items()}),
        ("manifests", _MAX_MANIFESTS, {n: s.manifests for n, s in result.end.items()}),
        ("bytes of metadata.json", _MAX_METADATA_BYTES, {n: s.bytes for n, s in result.end.items()}),
    ):
        measured = ", ".join(f"{table} {value:,}" for table, value in values.items())
        yield Assertion(f"at most {limit:,} {name} a table", measured, is_true=max(values.values()) <= limit)


def _wishes(plan: Plan, result: SoakResult) -> Iterator[Assertion]:
    day = plan.batches
    few = min(20, max(1, day // 2))
    series = {f"the day's last refreshes of {t.name}": result.refreshes[t.name] for t in TIMEFRAMES}
    series |= {"the five refreshes together": result.rounds, "appends of batches": result.appends}
    for name, times in series.items():
        yield speed_wish(f"{name} no slower than its first", times[:few], times[day - few : day])
    yield speed_wish(
        "the five together after the history, as at first", result.rounds[:few], result.rounds[day:]
    )
    for table, times in result.commits.items():
        few = min(20, len(times) // 2)
        yield speed_wish(
            f"commits to {table} at the end of the history, as at its start", times[:few], times[-few:]
        )


def _report_lines(
    plan: Plan,
    result: SoakResult,
    assertions: Sequence[Assertion],
    environment: Sequence[str],
    seconds: float,
) -> Iterator[str]:
    trades = plan.generator
    yield (
        f"Soak: {plan.batches} batches of five minutes, {trades.markets} markets, {trades.trades:,} "
        f"trades a batch, {LATE_SHARE:.0%} of them late by 5 minutes to 4 days; in {seconds:.0f} s"
    )
    yield (
        f"history: then {plan.steps:,} appends of one trade and as many commits to the 1m table, of a file "
        f"replaced by its own rows, all tables refreshed after every {LAG}; then {plan.after} batches more"
    )
    yield from environment
    yield ""
    header = ("table", "metadata.json", "manifests", "manifest bytes", "snapshots", "files", "in a partition")
    yield from _sizes_table("after the day", header, result.day)
    yield from _sizes_table("at the end", header, result.end)
    yield from map(str, assertions)


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
