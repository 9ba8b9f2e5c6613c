"""`k2-ohlcv demo`: the bundled week of real trades through the jobs, held against independent candles."""

import shutil
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.cli.rebuild import run_rebuilds, summary_text
from k2_ohlcv.domain.candle import SCALE
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, find_timeframe
from k2_ohlcv.sources import sample

if TYPE_CHECKING:
    from k2_ohlcv.lake.catalog import Lake

#: The days of the sample, the last of them cut off in the afternoon.
WEEK = Interval(datetime(2013, 11, 25, tzinfo=UTC), datetime(2013, 12, 2, tzinfo=UTC))
EXCHANGE, SYMBOL = sample.MARKET
#: The independent candles are printed with so many significant digits.
DIGITS = 12


def run_demo(terminal: Console) -> None:
    """Land the sample, run the jobs, show what they made.

    Raises:
        RunFailedError: a run or a blocking check failed.
    """
    from k2_ohlcv.lake.catalog import Lake

    began = time.monotonic()
    settings = terminal.settings
    _land_sample(settings.landing)
    added = _ingest(terminal)
    rebuilt = run_rebuilds(terminal, TIMEFRAMES, {grain: [WEEK] for grain in Grain})
    lake = Lake.open(settings)
    rows, daily = _read_stored(lake)
    days = compare_daily(daily)
    seconds = time.monotonic() - began
    changed = bool(added or rebuilt.is_committed)
    terminal.print_json(
        {
            "trades_added": added,
            "changed": changed,
            "rows": rows,
            "daily": [{"day": day, **candle, "agrees": days.get(day)} for day, candle in daily.items()],
            "agreeing_days": sum(days.values()),
            "checks": rebuilt.checks,
            "tables": [one.as_json() for one in rebuilt.tables],
            "run_ids": list(rebuilt.run_ids),
            "home": str(settings.home),
            "tables_at": tables_at(lake),
            "seconds": round(seconds, 3),
        }
    )
    terminal.print_text(_rows_table(rows), "", _daily_table(daily, days), "")
    terminal.print_text(
        f"{sum(days.values())} of {len(days)} full days agree with Bitcoincharts to {DIGITS} digits.",
        summary_text(rebuilt, seconds)
        if changed
        else f"Nothing changed: all of it was there. {seconds:.1f} s.",
        f"The Iceberg tables are under {tables_at(lake)}.",
        "To see the graph and its runs: make dev, then http://127.0.0.1:3000",
    )


def compare_daily(daily: Mapping[date, Mapping[str, Decimal]]) -> dict[date, bool]:
    """For each independent candle, whether ours says the same in every field, to the digits it has."""
    return {
        theirs.day: theirs.day in daily
        and all(_rounded(ours) == _rounded(getattr(theirs, name)) for name, ours in daily[theirs.day].items())
        for theirs in sample.read_daily_candles()
    }


def _rounded(value: Decimal) -> Decimal:
    """To the digits that both sides have: theirs are 12 in all, ours end 8 places after the point."""
    value = value.quantize(Decimal(1).scaleb(-SCALE))
    with localcontext(prec=DIGITS):
        return +value


def _land_sample(landing: Path) -> None:
    """Put the sample where trade files wait, unless it is there."""
    target = landing / EXCHANGE / SYMBOL / sample.sample_trades_file().name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.part")
        shutil.copyfile(sample.sample_trades_file(), partial)
        partial.replace(target)


def _ingest(terminal: Console) -> int:
    with terminal.progress("ingesting the sample", total=1) as steps:
        steps.start_step("starting Dagster")
        from k2_ohlcv.cli.dagster_instance import open_instance
        from k2_ohlcv.cli.dagster_runs import run_job
        from k2_ohlcv.definitions import build_definitions
        from k2_ohlcv.defs.jobs import INGEST_JOB
        from k2_ohlcv.lake.schemas import TRADES_TABLE

        with open_instance(terminal.settings) as instance:
            job = build_definitions(terminal.settings).resolve_job_def(INGEST_JOB)
            ended = run_job(job, instance, Grain.DAY, WEEK, [TRADES_TABLE])
        added = sum(int(str(part["trades_added"])) for part in ended.materialized[TRADES_TABLE])
        steps.finish_step(f"{TRADES_TABLE}: {added:,} trades added")
    return added


def tables_at(lake: "Lake") -> str:
    """The folder, or the place in a store, that the tables lie under, as they say themselves."""
    return lake.trades().location().rpartition("/")[0].removeprefix("file://")


def _read_stored(lake: "Lake") -> tuple[dict[str, int], dict[date, dict[str, Decimal]]]:
    """Rows per table, and the sample's daily candles, as they are stored."""
    from k2_ohlcv.lake.metadata.files import is_within
    from k2_ohlcv.lake.metadata.table_stats import candles_status, trades_status
    from k2_ohlcv.lake.schemas import TRADES_TABLE

    rows = {TRADES_TABLE: trades_status(lake).rows}
    rows |= {one.table: candles_status(lake, one).rows for one in TIMEFRAMES}
    candles = lake.candles(find_timeframe("1d")).scan(row_filter=is_within("window_start", [WEEK])).to_arrow()
    ours = [
        candle
        for candle in candles.sort_by("window_start").to_pylist()
        if (candle["exchange"], candle["symbol"]) == sample.MARKET
    ]
    return rows, {candle["window_date"]: _fields(candle) for candle in ours}


def _fields(candle: Mapping[str, object]) -> dict[str, Decimal]:
    """The fields that the independent candles have too."""
    names = {"open": "open_price", "high": "high_price", "low": "low_price", "close": "close_price"}
    names |= {"volume": "volume", "vwap": "vwap"}
    return {short: Decimal(str(candle[name])) for short, name in names.items()}


def _rows_table(rows: Mapping[str, int]) -> object:
    shown = table("table", "rows#")
    for name, count in rows.items():
        shown.add_row(name, f"{count:,}")
    return shown


def _daily_table(daily: Mapping[date, Mapping[str, Decimal]], days: Mapping[date, bool]) -> object:
    fields = ("open", "high", "low", "close", "volume", "vwap")
    shown = table("day", *(f"{name}#" for name in fields), "Bitcoincharts", title=f"{EXCHANGE} {SYMBOL}")
    for day, candle in daily.items():
        verdict = Text("not a full day")
        if day in days:
            verdict = Text("agrees") if days[day] else Text("differs", style="red")
        shown.add_row(str(day), *(_plain_value(candle[name]) for name in fields), verdict)
    return shown


def _plain_value(value: Decimal) -> str:
    return f"{value.normalize():f}"
