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

from bench.contenders.duck import Duck
from bench.job import candles
from bench.race import UnequalError, compare
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.domain.window import Interval
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.files import live_files, partition_of, table_grain

#: "No slower": as little as this is noise on a machine that does nothing else.
TOLERANCE = 1.2


@dataclass(frozen=True)
class Fact:
    """Something that must hold, or a time that is only wished for: in words, what was found, and whether."""

    text: str
    found: str
    true: bool
    held: bool = True

    def __str__(self) -> str:
        word = ("holds" if self.true else "BROKEN") if self.held else ("met" if self.true else "MISSED")
        return f"{word:>6}  {self.text}: {self.found}"


@dataclass(frozen=True)
class Size:
    """How large a table's metadata is: its newest file, and what that names."""

    bytes: int
    manifests: int
    manifest_bytes: int
    snapshots: int
    files: int
    crowd: int

    @classmethod
    def of(cls, table: Table) -> "Size":
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
            crowd=max(Counter(partition_of(f.file, table_grain(table)) for f in live).values(), default=0),
        )


def sizes(lake: Lake) -> dict[str, Size]:
    """The sizes of the trades table and of the five candle tables, by name."""
    found = {"trades": Size.of(lake.trades())}
    for each in TIMEFRAMES:
        found[each.name] = Size.of(lake.candles(each))
    return found


def equality(lake: Lake, home: Path, trades: int) -> Fact:
    """Whether the trades table has so many trades, and every candle table is what DuckDB makes of them."""
    table = lake.trades()
    live = live_files(table, table.metadata.current_snapshot_id)
    files = [url2pathname(urlsplit(f.path).path) for f in live]
    days = Grain.DAY.partitions(f.span for f in live)
    whole = Interval(days[0].start, days[-1].end)
    job = candles(home, files, [t.name for t in TIMEFRAMES], whole, home / "duck")
    text = f"all five tables equal what DuckDB makes of {trades:,} trades"
    stored = sum(f.file.record_count for f in live)
    if stored != trades:
        return Fact(text, f"the trades table has {stored:,}", true=False)
    duck = Duck()
    duck.prepare(job)
    duck.run(job)
    rows = 0
    for each in TIMEFRAMES:
        ours = pl.DataFrame(lake.candles(each).scan().to_arrow())
        rows += ours.height
        try:
            compare(ours, pl.read_parquet(job.path(each)), each.table)
        except UnequalError as error:
            return Fact(text, str(error), true=False)
    return Fact(text, f"{rows:,} candles, every column", true=True)


def no_slower(what: str, first: Sequence[float], last: Sequence[float]) -> Fact:
    """The wish that the later of two lots of times are no longer than the earlier, by their medians."""
    before, after = statistics.median(first), statistics.median(last)
    text = f"{what}, medians of {len(first)} and {len(last)}"
    found = f"{before:.3f} s, then {after:.3f} s, {after / before:.2f} times"
    return Fact(text, found, true=after <= TOLERANCE * before, held=False)
