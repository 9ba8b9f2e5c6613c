"""A trades table of very many data files, with real manifests. Planning reads manifests and few data files.

The entries of most files are made up, and the files do not exist. Only the trades that a measurement adds
are in real files, on days of their own.
"""

import shutil
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyiceberg.conversions import to_bytes
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.typedef import Record

from bench import trades
from bench.lake import open_lake
from k2_ohlcv.domain.intervals import DAY, Interval, day_start, to_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.fingerprint import trades_fingerprint
from k2_ohlcv.lake.watermark import Watermark

#: Files that one commit of an archive adds, and their rows.
_FILES_OF_COMMIT, _ROWS = 250, 4_000
#: The trades that `new_trades` makes: one a market.
NEW_TRADES = 2_000
#: Commits after the archives: each adds a file of the last day, and every fourth one a late file too.
_LIVE_COMMITS = 200


def many_files_lake(root: Path, markets: int, days: int) -> Path:
    """A lake in which each market has a file a day, made once. Its candle tables are up to date."""
    home = root / f"files-{markets}x{days}"
    done = home / "complete"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        lake = open_lake(home)
        for files in _commits(lake.writable_trades(), markets, days):
            commit_change(lake.trades(), TableCommit(files=tuple(files), operation=Operation.APPEND))
        set_watermarks(lake)
        done.touch()
    return home


def set_watermarks(lake: Lake) -> None:
    """Have every candle table count as equal to the current trades."""
    table = lake.trades()
    snapshot = table.metadata.current_snapshot_id
    assert snapshot is not None
    mark = Watermark(snapshot, None, trades_fingerprint(table)).with_reconciled([], ())
    for timeframe in TIMEFRAMES:
        change = TableCommit(properties=mark.properties(), summary=mark.summary())
        commit_change(lake.writable_candles(timeframe), change)


def count_files(home: Path) -> int:
    """The number of live data files of trades in a lake, by the summary of the current snapshot."""
    snapshot = open_lake(home).trades().current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    return int(snapshot.summary["total-data-files"] or 0)


def new_trades(at: datetime) -> pa.Table:
    """A trade of each of many markets within five minutes."""
    markets, count = [market.symbol for market in trades.zipf_markets(NEW_TRADES)], NEW_TRADES
    moments = to_micros(at) + np.sort(np.random.default_rng(1).integers(0, 300_000_000, count))
    return pa.table(
        {
            "exchange": pa.repeat(trades.EXCHANGE, count),
            "symbol": pa.array(markets),
            "trade_id": pa.array(moments).cast(pa.string()),
            "timestamp": pa.array(moments).cast(pa.timestamp("us", "UTC")),
            "price": trades.to_decimals(np.full(count, 10**9), 18),
            "quantity": trades.to_decimals(np.full(count, 10**8), 19),
        }
    )


def day_of(number: int) -> Interval:
    """A day of the lake, from 0 on. The days of the files that do not exist come first."""
    start = day_start(trades.FIRST_DAY) + number * DAY
    return Interval(start, start + DAY)


def _commits(table: Table, markets: int, days: int) -> Iterator[list[DataFile]]:
    """The files of each commit: archives of many markets day by day, then a live day."""
    symbols = [market.symbol for market in trades.zipf_markets(markets)]
    for day in range(days):
        for first in range(0, markets, _FILES_OF_COMMIT):
            yield [_file(table, day_of(day), [s]) for s in symbols[first : first + _FILES_OF_COMMIT]]
    random = np.random.default_rng(2)
    for number in range(_LIVE_COMMITS):
        start = day_of(days).start + number * timedelta(minutes=5)
        files = [_file(table, Interval(start, start + timedelta(minutes=5)), symbols)]
        if number % 4 == 0:
            files.append(_file(table, day_of(int(random.integers(days))), symbols[:1]))
        yield files


def _file(table: Table, span: Interval, symbols: Sequence[str]) -> DataFile:
    """The entry of a data file that does not exist, with the statistics of a real one."""
    schema = table.schema()
    name = f"{symbols[0]}-{uuid.uuid4()}"
    values = {
        "exchange": (trades.EXCHANGE, trades.EXCHANGE),
        "symbol": (symbols[0], symbols[-1]),
        "trade_id": ("1000000000", "1000004000"),
        "timestamp": (to_micros(span.start), to_micros(span.last)),
        "price": (pa.scalar(10, pa.decimal128(18, 8)).as_py(), pa.scalar(99, pa.decimal128(18, 8)).as_py()),
        "quantity": (pa.scalar(1, pa.decimal128(19, 8)).as_py(), pa.scalar(9, pa.decimal128(19, 8)).as_py()),
        "ingested_at": (to_micros(span.end), to_micros(span.end)),
    }
    fields = [schema.find_field(name) for name in values]
    lower, upper = (
        {f.field_id: to_bytes(f.field_type, values[f.name][end]) for f in fields}  # type: ignore[arg-type]
        for end in (0, 1)
    )
    ids = [f.field_id for f in fields]
    file = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=f"{table.location()}/data/timestamp_day={span.start:%Y-%m-%d}/{name}.parquet",
        file_format=FileFormat.PARQUET,
        partition=Record(Grain.DAY.ordinal(span.start)),
        record_count=_ROWS,
        file_size_in_bytes=64 * 2**20,
        column_sizes=dict.fromkeys(ids, 10_000),
        value_counts=dict.fromkeys(ids, _ROWS),
        null_value_counts=dict.fromkeys(ids, 0),
        nan_value_counts={},
        lower_bounds=lower,
        upper_bounds=upper,
        split_offsets=[4],
        sort_order_id=None,
        spec_id=table.spec().spec_id,
        equality_ids=None,
        key_metadata=None,
    )
    file.spec_id = table.spec().spec_id
    return file
