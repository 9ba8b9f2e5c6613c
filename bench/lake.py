"""The lake of a benchmark: generated trades in Iceberg, in the same files as ingestion writes.

Lakes are stored under `.bench/` between runs, in folders named by everything that their bytes depend on.
Measuring is in `worker` and `compare`.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pyarrow as pa
import pyarrow.csv
from pyiceberg.catalog.sql import SqlCatalog

from bench import trades
from k2_ohlcv.domain.intervals import DAY, Interval, day_start
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.types import NOTIONAL
from k2_ohlcv.lake.append import append_new
from k2_ohlcv.lake.catalog import CATALOG, Lake
from k2_ohlcv.lake.data_files import FILE_ROWS
from k2_ohlcv.lake.embedded_catalog import embedded_properties
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.schemas import CANDLE_SPECS, TRADES_SPEC
from k2_ohlcv.lake.trades import protected_snapshots
from k2_ohlcv.settings import Settings

#: The folder of all benchmark data, in the checkout. Git ignores it.
ROOT = Path(__file__).parent.parent / ".bench"


def bench_settings(home: Path) -> Settings:
    """Settings of the benchmark's own lake. The environment is ignored, so no other tables are changed."""
    return Settings.from_environ({"K2_HOME": str(home)})


def open_lake(home: Path) -> Lake:
    """The embedded lake at a path. Configured catalogs are ignored."""
    home.mkdir(parents=True, exist_ok=True)
    properties = embedded_properties(bench_settings(home))
    return Lake(SqlCatalog(CATALOG, **{k: v for k, v in properties.items() if k != "type"}))


def empty_candles(lake: Lake, timeframe: Timeframe) -> None:
    """Replace a candle table by a new one, without rows or history."""
    table = lake.writable_candles(timeframe)
    folder = Path(url2pathname(urlsplit(table.location()).path))
    lake.catalog.drop_table(CANDLE_SPECS[timeframe.name].identifier)
    shutil.rmtree(folder, ignore_errors=True)
    lake.writable_candles(timeframe)


@dataclass(frozen=True)
class Dataset:
    """Generated trades of some days, created at the first use.

    Attributes:
        rows: trades a day, over all markets.
        days: the number of days.
        root: the folder of the data.
        stored_days: the number of days in the larger of the two lakes in which a refresh is measured.
        markets: the number of markets. More than the four of `trades.MARKETS` have Zipf volumes.
    """

    rows: int
    days: int
    root: Path = ROOT
    stored_days: int = 2
    markets: int = len(trades.MARKETS)

    @property
    def home(self) -> Path:
        """The lake's `K2_HOME`, named by everything that its contents depend on."""
        version = repr(
            (trades.VERSION, FILE_ROWS, sorted(TRADES_SPEC.properties.items()), TRADES_SPEC.schema)
        )
        key = hashlib.sha256(version.encode()).hexdigest()[:8]
        width = "" if self.markets == len(trades.MARKETS) else f"-{self.markets}"
        return self.root / f"trades-{self.rows}x{self.days}{width}-{key}"

    def generate_day(self, day: date) -> pa.Table:
        """The trades of a day, without `ingested_at`, by timestamp."""
        is_narrow = self.markets == len(trades.MARKETS)
        markets = trades.MARKETS if is_narrow else trades.zipf_markets(self.markets)
        return trades.generate_day(day, self.rows, markets)

    @cached_property
    def lake(self) -> Lake:
        """The lake with all its trades. An incomplete lake of an interrupted run is created again."""
        done = self.home / "complete"
        if not done.exists():
            shutil.rmtree(self.home, ignore_errors=True)
            lake = open_lake(self.home)
            for day in trades.generate_days(self.days):
                append_trades(lake, self.generate_day(day))
            done.touch()
        return open_lake(self.home)

    @property
    def csv(self) -> Path:
        """A CSV file with a day's number of trades, of one market, in the layout of Binance's spot dumps."""
        market = trades.MARKETS[0]
        path = self.home.with_name(self.home.name + ".csv")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            _write_csv(trades.generate_market_day(market, 0, trades.FIRST_DAY, self.rows), part)
            part.rename(path)
        return path

    @property
    def first_day(self) -> Interval:
        """The first day, the only one of its month."""
        start = day_start(trades.FIRST_DAY)
        return Interval(start, start + DAY)

    @property
    def all_days(self) -> Interval:
        """All days."""
        start = day_start(trades.FIRST_DAY)
        return Interval(start, start + self.days * DAY)

    def files(self, interval: Interval) -> Sequence[str]:
        """The live data files of the trades table that have trades of an interval."""
        table = self.lake.trades()
        snapshot = table.current_snapshot()
        assert snapshot is not None
        live = live_files(table, snapshot.snapshot_id)
        return sorted(url2pathname(urlsplit(f.path).path) for f in live if f.span.intersect(interval))


def append_trades(lake: Lake, rows: pa.Table) -> None:
    """Append new trades in one snapshot, and expire old snapshots as ingestion does."""
    clock = pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), rows.num_rows)
    table = rows.append_column("ingested_at", clock)
    append_new(lake.writable_trades, lambda _: table, lambda trades: protected_snapshots(lake, trades))


def _write_csv(part: trades.Trades, path: Path) -> None:
    price, quantity = trades.to_decimals(part.prices, 18), trades.to_decimals(part.quantities, 19)
    maker = pa.array(np.arange(len(part.ids)) % 2 == 0)
    columns = {
        "id": pa.array(part.ids),
        "price": price,
        "qty": quantity,
        "quote": pa.compute.cast(pa.compute.multiply(price, quantity), pa.decimal128(*NOTIONAL)),
        "time": pa.array(part.millis * 1000),  # spot files have had microseconds since 2025
        "maker": maker,
        "best": pa.repeat(True, len(part.ids)),
    }
    pyarrow.csv.write_csv(pa.table(columns), path, pyarrow.csv.WriteOptions(include_header=False))
