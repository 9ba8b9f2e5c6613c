"""Lakes for tests: trades written and candles read directly, without ingestion or an engine."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow.fs import FileSelector, FileType
from pyiceberg.catalog import load_catalog
from pyiceberg.io.pyarrow import PyArrowFileIO, schema_to_pyarrow
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import KEY_COLUMNS, VALUE_COLUMNS, Candle, Trade, aggregate
from k2_ohlcv.domain.intervals import MICROSECOND, Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, REFUSED_TYPES
from k2_ohlcv.frames.selection import WindowSelection
from k2_ohlcv.lake.candles import StoredCandles
from k2_ohlcv.lake.catalog import CATALOG, Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.fingerprint import trades_fingerprint
from k2_ohlcv.lake.schemas import NAMESPACE
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support.servers import S3

INGESTED = datetime(2024, 6, 1, tzinfo=UTC)


def lake_settings(home: Path, **environ: str) -> Settings:
    """Settings of a lake in a folder."""
    return Settings.from_environ({"K2_HOME": str(home), **environ})


def open_lake(home: Path) -> Lake:
    """A lake in a folder."""
    return Lake.open(lake_settings(home))


@contextmanager
def temporary_lake() -> Iterator[tuple[Lake, Path]]:
    """A lake in a folder of its own, for one example of a property."""
    with tempfile.TemporaryDirectory() as folder:
        lake = open_lake(Path(folder))
        try:
            yield lake, Path(folder)
        finally:
            lake.catalog.close()


def on_s3(home: Path, s3: S3, bucket: str) -> Lake:
    """A lake whose tables are in a bucket and whose catalog is a file in a folder."""
    uri = f"sqlite:///{home / 'catalog.db'}"
    properties = {"type": "sql", "uri": uri, "warehouse": f"s3://{bucket}/warehouse", **s3.properties()}
    return Lake(load_catalog(CATALOG, **properties))


def on_rest(s3: S3, uri: str) -> Lake:
    """An empty lake in a REST catalog, which chooses the locations of its tables on S3."""
    lake = Lake(load_catalog(CATALOG, type="rest", uri=uri, **s3.properties()))
    empty_catalog(lake)
    return lake


def empty_catalog(lake: Lake) -> None:
    """Drop every table, with its files. A REST catalog gives the next table of that name the same folder."""
    lake.catalog.create_namespace_if_not_exists(NAMESPACE)
    for identifier in lake.catalog.list_tables(NAMESPACE):
        table = lake.catalog.load_table(identifier)
        for path in files_of(table):
            table.io.delete(path)
        lake.catalog.drop_table(identifier)


def drop_tables(lake: Lake) -> None:
    """Drop every table of a lake."""
    lake.catalog.create_namespace_if_not_exists(NAMESPACE)
    for identifier in lake.catalog.list_tables(NAMESPACE):
        lake.catalog.drop_table(identifier)


def add_trades(lake: Lake, trades: Iterable[Trade]) -> Table:
    """Append trades in one snapshot, without a search for duplicates."""
    table = lake.writable_trades()
    table.append(to_trades_rows(table, trades))
    return table


def to_trades_rows(table: Table, trades: Iterable[Trade]) -> pa.Table:
    """Trades as Arrow rows of the trades table."""
    rows = [{**vars(trade), "ingested_at": INGESTED} for trade in trades]
    return pa.Table.from_pylist(rows, schema=schema_to_pyarrow(table.schema(), include_field_ids=False))


def commit_candles(
    table: Table,
    timeframe: Timeframe,
    trades: Iterable[Trade],
    now: datetime,
    properties: dict[str, str] | None = None,
    summary: dict[str, str] | None = None,
) -> Table:
    """Commit the candles of these trades, as a refresh of their windows would."""
    trades = list(trades)
    intervals = timeframe.align(Interval(t.timestamp, t.timestamp + MICROSECOND) for t in trades)
    rows = [{**vars(c), "created_at": now, "updated_at": now} for c in aggregate(trades, timeframe)]
    computed = pl.DataFrame(rows, schema=CANDLE_TYPES).select(*KEY_COLUMNS, *VALUE_COLUMNS)
    refused = pl.DataFrame(schema=REFUSED_TYPES)
    selection = WindowSelection(tuple(intervals))
    change = StoredCandles.load(table, timeframe, intervals).change(computed, refused, selection, now)
    removed = tuple(task.file for task in change.removed)
    commit = TableCommit(removed, change.rows, properties or {}, summary or {}, file_rows=change.file_rows)
    return commit_change(table, commit)


def set_watermark(lake: Lake, timeframe: Timeframe, snapshot: int) -> None:
    """Commit a watermark at a trades snapshot, as a refresh without dirty windows does."""
    watermark = Watermark(snapshot, None, trades_fingerprint(lake.trades())).with_reconciled([], ())
    commit_change(
        lake.writable_candles(timeframe),
        TableCommit(properties=watermark.properties(), summary=watermark.summary()),
    )


def read_candles(lake: Lake, timeframe: Timeframe) -> list[Candle]:
    """The candles of a table by key, without the audit columns."""
    rows = read_frame(lake, timeframe).sort(*KEY_COLUMNS).drop("created_at", "updated_at").to_dicts()
    return [Candle(**row) for row in rows]


def read_frame(lake: Lake, timeframe: Timeframe) -> pl.DataFrame:
    """The rows of a candle table."""
    return pl.DataFrame(lake.candles(timeframe).scan().to_arrow())


def assert_equal_to_trades(
    lake: Lake, trades: Iterable[Trade], timeframes: Iterable[Timeframe] = TIMEFRAMES
) -> None:
    """Compare candle tables with the reference aggregation of these trades."""
    trades = list(trades)
    for timeframe in timeframes:
        assert read_candles(lake, timeframe) == aggregate(trades, timeframe), timeframe.name


def list_data_files(table: Table) -> list[str]:
    """The live data files of a table."""
    return sorted(task.file.file_path for task in table.scan().plan_files())


def write_file(table: Table, path: str, content: bytes) -> None:
    """Write a file to a path in the table's store."""
    with table.io.new_output(path).create(overwrite=True) as stream:
        stream.write(content)


def list_parquet_files(table: Table) -> set[str]:
    """The Parquet files in a table's location, live or not."""
    return {path for path in files_of(table) if path.endswith(".parquet")}


def files_of(table: Table) -> dict[str, int]:
    """Every file in a table's location, with its size in bytes. Paths have the table's scheme."""
    scheme, host, root = PyArrowFileIO.parse_location(table.location())
    files = PyArrowFileIO(table.io.properties).fs_by_scheme(scheme, host)
    listing = files.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
    return {f"{scheme}://{info.path}": info.size for info in listing if info.type == FileType.File}


def read_data_file(path: str) -> pl.DataFrame:
    """The rows of a data file, deleted ones included."""
    return pl.read_parquet(path.removeprefix("file://"))


def all_trades(lake: Lake) -> list[Trade]:
    """The live trades."""
    rows = pl.DataFrame(lake.trades().scan().to_arrow()).drop("ingested_at").to_dicts()
    return [Trade(**row) for row in rows]
