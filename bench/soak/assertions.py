"""Assertions about a lake after the soak: its files, its metadata, and its candles compared with DuckDB's."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import polars as pl
from pyiceberg.table import Table

from bench.compare import UnequalCandlesError, assert_equal_candles
from bench.engines.duckdb import DuckDbEngine
from bench.job import candle_job
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.lake.candle_layout import SMALL_FILE_ROWS
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.files import file_partition, live_files, table_grain

#: The ratio that still counts as "no slower". Smaller differences are noise on an idle machine.
TOLERANCE = 1.2


@dataclass(frozen=True)
class Assertion:
    """A required assertion, or a wish about a time: its text, the measured value, and whether it is true."""

    text: str
    measured: str
    is_true: bool
    is_required: bool = True

    def __str__(self) -> str:
        word = (
            ("passed" if self.is_true else "FAILED")
            if self.is_required
            else ("met" if self.is_true else "MISSED")
        )
        return f"{word:>6}  {self.text}: {self.measured}"


@dataclass(frozen=True)
class TableSize:
    """The size of a table's metadata: its newest metadata file, and the files that this names."""

    bytes: int
    manifests: int
    manifest_bytes: int
    snapshots: int
    files: int
    most_files: int

    @classmethod
    def measure(cls, table: Table) -> "TableSize":
        """Measure a table. `most_files` is the largest number of small data files in a partition."""
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io) if snapshot else []
        live = live_files(table, snapshot.snapshot_id if snapshot else None)
        small = [f for f in live if f.file.record_count < SMALL_FILE_ROWS]
        return cls(
            bytes=len(table.io.new_input(table.metadata_location)),
            manifests=len(manifests),
            manifest_bytes=sum(m.manifest_length for m in manifests),
            snapshots=len(table.metadata.snapshots),
            files=len(live),
            most_files=max(
                Counter(file_partition(f.file, table_grain(table)) for f in small).values(), default=0
            ),
        )


def measure_sizes(lake: Lake) -> dict[str, TableSize]:
    """Measure the trades table and the five candle tables, by name."""
    sizes = {"trades": TableSize.measure(lake.trades())}
    for timeframe in TIMEFRAMES:
        sizes[timeframe.name] = TableSize.measure(lake.candles(timeframe))
    return sizes


def check_equality(lake: Lake, home: Path, trades: int) -> Assertion:
    """Assert that the trades table has this number of trades, and that DuckDB computes the same candles."""
    table = lake.trades()
    live = live_files(table, table.metadata.current_snapshot_id)
    files = [url2pathname(urlsplit(f.path).path) for f in live]
    days = Grain.DAY.partitions(f.span for f in live)
    whole = Interval(days[0].start, days[-1].end)
    job = candle_job(home, files, [t.name for t in TIMEFRAMES], whole, home / "duck")
    text = f"all five tables equal DuckDB's candles of {trades:,} trades"
    stored = sum(f.file.record_count for f in live)
    if stored != trades:
        return Assertion(text, f"the trades table has {stored:,}", is_true=False)
    engine = DuckDbEngine()
    engine.prepare(job)
    engine.run(job)
    rows = 0
    for timeframe in TIMEFRAMES:
        candles = pl.DataFrame(lake.candles(timeframe).scan().to_arrow())
        rows += candles.height
        try:
            assert_equal_candles(candles, pl.read_parquet(job.path(timeframe)), timeframe.table)
        except UnequalCandlesError as error:
            return Assertion(text, str(error), is_true=False)
    return Assertion(text, f"{rows:,} candles, every column", is_true=True)


def speed_wish(name: str, first: Sequence[float], last: Sequence[float]) -> Assertion:
    """The wish that later times are no longer than earlier ones, by their medians."""
    before, after = statistics.median(first), statistics.median(last)
    text = f"{name}, medians of {len(first)} and {len(last)}"
    measured = f"{before:.3f} s, then {after:.3f} s, {after / before:.2f} times"
    return Assertion(text, measured, is_true=after <= TOLERANCE * before, is_required=False)
