"""`k2-ohlcv demo`: runs the jobs on a bundled week of real trades, and compares with independent candles."""

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

#: The days of the sample. The last day ends in the afternoon.
WEEK = Interval(datetime(2013, 11, 25, tzinfo=UTC), datetime(2013, 12, 2, tzinfo=UTC))
EXCHANGE, SYMBOL = sample.MARKET
#: Significant digits of the independent candles.
DIGITS = 12
UNCHANGED = "Nothing changed: the tables had all candles already."


def run_demo(console: Console) -> None:
    """Copy the sample to the landing folder, run the jobs, and show their candles.

    Raises:
        RunFailedError: a run or a blocking check failed.
    """
    from k2_ohlcv.lake.catalog import Lake

    began = time.monotonic()
    _land_sample(console.settings.landing)
    added = _ingest(console)
    rebuilt = run_rebuilds(console, TIMEFRAMES, {grain: [WEEK] for grain in Grain})
    lake = Lake.open(console.settings)
    rows, daily = _read_stored(lake)
    days = compare_daily(daily)
    seconds = time.monotonic() - began
    changed = bool(added or rebuilt.windows_written)
    console.print_json(
        {
            "trades_added": added,
            "changed": changed,
            "rows": rows,
            "daily": [{"day": day, **candle, "agrees": days.get(day)} for day, candle in daily.items()],
            "agreeing_days": sum(days.values()),
            "checks": rebuilt.checks,
            "tables": [result.as_json() for result in rebuilt.tables],
            "run_ids": list(rebuilt.run_ids),
            "home": str(console.settings.home),
            "tables_at": tables_at(lake),
            "seconds": round(seconds, 3),
        }
    )
    console.print_text(_rows_table(rows), "", _daily_table(daily, days), "")
    console.print_text(
        f"{sum(days.values())} of {len(days)} full days agree with Bitcoincharts to {DIGITS} digits.",
        summary_text(rebuilt, seconds) if changed else f"{UNCHANGED} {seconds:.1f} s.",
        f"The Iceberg tables are under {tables_at(lake)}.",
        "To see the graph and its runs: make dev, then http://127.0.0.1:3000",
    )


def compare_daily(daily: Mapping[date, Mapping[str, Decimal]]) -> dict[date, bool]:
    """Whether the stored candle of each day equals the independent one in every field, to `DIGITS` digits."""
    return {
        independent.day: independent.day in daily
        and all(
            _rounded(value) == _rounded(getattr(independent, name))
            for name, value in daily[independent.day].items()
        )
        for independent in sample.read_daily_candles()
    }


def _rounded(value: Decimal) -> Decimal:
    """Round to the digits that both sides have: independent values have 12 digits, stored ones 8 decimals."""
    value = value.quantize(Decimal(1).scaleb(-SCALE))
    with localcontext(prec=DIGITS):
        return +value


def _land_sample(landing: Path) -> None:
    """Copy the sample to the landing folder, unless it is there."""
    target = landing / EXCHANGE / SYMBOL / sample.sample_trades_file().name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.part")
        shutil.copyfile(sample.sample_trades_file(), partial)
        partial.replace(target)


def _ingest(console: Console) -> int:
    with console.progress("ingesting the sample", total=1) as steps:
        steps.start_step("starting Dagster")
        from k2_ohlcv.cli.dagster_instance import open_instance
        from k2_ohlcv.cli.dagster_runs import run_job
        from k2_ohlcv.definitions import build_definitions
        from k2_ohlcv.defs.jobs import INGEST_JOB
        from k2_ohlcv.lake.schemas import TRADES_TABLE

        with open_instance(console.settings) as instance:
            job = build_definitions(console.settings).resolve_job_def(INGEST_JOB)
            result = run_job(job, instance, Grain.DAY, WEEK, [TRADES_TABLE])
        added = sum(int(str(part["trades_added"])) for part in result.materialized[TRADES_TABLE])
        steps.finish_step(f"{TRADES_TABLE}: {added:,} trades added")
    return added


def tables_at(lake: "Lake") -> str:
    """The folder or the prefix in a store that has the tables, from the location of the trades table."""
    return lake.trades().location().rpartition("/")[0].removeprefix("file://")


def _read_stored(lake: "Lake") -> tuple[dict[str, int], dict[date, dict[str, Decimal]]]:
    """The stored rows per table, and the stored daily candles of the sample's market."""
    from k2_ohlcv.lake.metadata.files import is_within
    from k2_ohlcv.lake.metadata.table_stats import candles_status, trades_status
    from k2_ohlcv.lake.schemas import TRADES_TABLE

    rows = {TRADES_TABLE: trades_status(lake).rows}
    rows |= {t.table: candles_status(lake, t).rows for t in TIMEFRAMES}
    candles = lake.candles(find_timeframe("1d")).scan(row_filter=is_within("window_start", [WEEK])).to_arrow()
    of_market = [
        candle
        for candle in candles.sort_by("window_start").to_pylist()
        if (candle["exchange"], candle["symbol"]) == sample.MARKET
    ]
    return rows, {candle["window_date"]: _fields(candle) for candle in of_market}


def _fields(candle: Mapping[str, object]) -> dict[str, Decimal]:
    """The fields of a stored candle that the independent candles have too."""
    names = {"open": "open_price", "high": "high_price", "low": "low_price", "close": "close_price"}
    names |= {"volume": "volume", "vwap": "vwap"}
    return {short: Decimal(str(candle[name])) for short, name in names.items()}


def _rows_table(rows: Mapping[str, int]) -> object:
    result = table("table", "rows#")
    for name, count in rows.items():
        result.add_row(name, f"{count:,}")
    return result


def _daily_table(daily: Mapping[date, Mapping[str, Decimal]], days: Mapping[date, bool]) -> object:
    fields = ("open", "high", "low", "close", "volume", "vwap")
    result = table("day", *(f"{name}#" for name in fields), "Bitcoincharts", title=f"{EXCHANGE} {SYMBOL}")
    for day, candle in daily.items():
        comparison = Text("not a full day")
        if day in days:
            comparison = Text("agrees") if days[day] else Text("differs", style="red")
        result.add_row(str(day), *(_plain_value(candle[name]) for name in fields), comparison)
    return result


def _plain_value(value: Decimal) -> str:
    return f"{value.normalize():f}"
