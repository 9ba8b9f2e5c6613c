"""What a lake has become: files, metadata, and whether every candle is what DuckDB makes of all trades."""

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
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.files import file_partition, live_files, table_grain

#: "No slower": as little as this is noise on a machine that does nothing else.
TOLERANCE = 1.2


@dataclass(frozen=True)
class Assertion:
    """Something that must hold, or a time that is only wished for: in words, what was found, and whether."""

    text: str
    found: str
    is_true: bool
    is_required: bool = True

    def __str__(self) -> str:
        word = (
            ("holds" if self.is_true else "BROKEN")
            if self.is_required
            else ("met" if self.is_true else "MISSED")
        )
        return f"{word:>6}  {self.text}: {self.found}"


@dataclass(frozen=True)
class TableSize:
    """How large a table's metadata is: its newest file, and what that names."""

    bytes: int
    manifests: int
    manifest_bytes: int
    snapshots: int
    files: int
    crowd: int

    @classmethod
    def measure(cls, table: Table) -> "TableSize":
        """Of a table as it is now; `crowd` is the data files in its fullest partition."""
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io) if snapshot else []
        live = live_files(table, snapshot.snapshot_id if snapshot else None)
        return cls(
            bytes=len(table.io.new_input(table.metadata_location)),
            manifests=len(manifests),
            manifest_bytes=sum(m.manifest_length for m in manifests),
            snapshots=len(table.metadata.snapshots),
            files=len(live),
            crowd=max(Counter(file_partition(f.file, table_grain(table)) for f in live).values(), default=0),
        )


def measure_sizes(lake: Lake) -> dict[str, TableSize]:
    """The sizes of the trades table and of the five candle tables, by name."""
    found = {"trades": TableSize.measure(lake.trades())}
    for each in TIMEFRAMES:
        found[each.name] = TableSize.measure(lake.candles(each))
    return found


def check_equality(lake: Lake, home: Path, trades: int) -> Assertion:
    """Whether the trades table has so many trades, and every candle table is what DuckDB makes of them."""
    table = lake.trades()
    live = live_files(table, table.metadata.current_snapshot_id)
    files = [url2pathname(urlsplit(f.path).path) for f in live]
    days = Grain.DAY.partitions(f.span for f in live)
    whole = Interval(days[0].start, days[-1].end)
    job = candle_job(home, files, [t.name for t in TIMEFRAMES], whole, home / "duck")
    text = f"all five tables equal what DuckDB makes of {trades:,} trades"
    stored = sum(f.file.record_count for f in live)
    if stored != trades:
        return Assertion(text, f"the trades table has {stored:,}", is_true=False)
    duck = DuckDbEngine()
    duck.prepare(job)
    duck.run(job)
    rows = 0
    for each in TIMEFRAMES:
        ours = pl.DataFrame(lake.candles(each).scan().to_arrow())
        rows += ours.height
        try:
            assert_equal_candles(ours, pl.read_parquet(job.path(each)), each.table)
        except UnequalCandlesError as error:
            return Assertion(text, str(error), is_true=False)
    return Assertion(text, f"{rows:,} candles, every column", is_true=True)


def speed_wish(what: str, first: Sequence[float], last: Sequence[float]) -> Assertion:
    """The wish that the later of two lots of times are no longer than the earlier, by their medians."""
    before, after = statistics.median(first), statistics.median(last)
    text = f"{what}, medians of {len(first)} and {len(last)}"
    found = f"{before:.3f} s, then {after:.3f} s, {after / before:.2f} times"
    return Assertion(text, found, is_true=after <= TOLERANCE * before, is_required=False)
