"""The id ranges of data files: the least and greatest trade id of each market in each file of trades.

Ids are ordered by (length in bytes, text), so that plain numbers compare as numbers. A range tells in which
files an id may be stored. The search in the files is in `dedupe`.

Ranges are cached beside the table, one file a month: `<location>/trade-ids/<table uuid>/<month>.arrow`. A
data file never changes, so the path and size of a data file identify its ranges. Missing or damaged ranges
are read from the data files again.
"""

import hashlib
import io
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from pyarrow.fs import FileSelector
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import FileFormat
from pyiceberg.table import Table

from k2_ohlcv.lake.metadata.files import LiveFile

#: A month's cache file is written again once so many data files, or so many of their rows, are missing.
_MAX_UNSAVED_FILES = 16
_MAX_UNSAVED_ROWS = 250_000
#: Maximum ranges that a process caches in memory.
_MAX_ROWS_IN_MEMORY = 500_000
#: The number of data files read in parallel, and the maximum rows of a batch.
_THREADS = 4
_PIECE_ROWS = 250_000
#: Bytes of the SHA-256 digest at the start of a cache file.
_DIGEST_BYTES = 32
_SCHEMA: dict[str, pl.DataType] = {
    "path": pl.String(),
    "bytes": pl.Int64(),
    "exchange": pl.String(),
    "symbol": pl.String(),
    "least_length": pl.Int64(),
    "least": pl.String(),
    "greatest_length": pl.Int64(),
    "greatest": pl.String(),
}
_MARKET = ["exchange", "symbol"]

_log = structlog.get_logger(__name__)


def read_id_ranges(table: Table, files: Sequence[LiveFile]) -> Iterator[tuple[pl.DataFrame, list[LiveFile]]]:
    """Read the id ranges of data files, one month at a time.

    Args:
        table: the trades table.
        files: all live data files of the table.

    Yields:
        A frame of ranges: `path`, `exchange`, `symbol`, `least_length`, `least`, `greatest_length`,
        `greatest`. With it the files of unknown ranges, which may have any id.
    """
    months: dict[str, list[LiveFile]] = defaultdict(list)
    for file in files:
        if file.file.record_count:
            months[f"{file.span.start:%Y-%m}"].append(file)
    for month, month_files in sorted(months.items()):
        yield _read_month(table, month, month_files, set(months))


def group_id_ranges(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """The range of `trade_id` for each group of rows."""
    parts = (
        rows.drop_nulls("trade_id")
        .with_columns(pl.col("trade_id").str.len_bytes().cast(pl.Int64).alias("length"))
        .group_by([*by, "length"])
        .agg(pl.col("trade_id").min().alias("least"), pl.col("trade_id").max().alias("greatest"))
    )
    lengths = [pl.col("length").alias(f"{end}_length") for end in ("least", "greatest")]
    return _merge_ranges(parts.with_columns(lengths), by)


def _merge_ranges(parts: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    low = parts.sort("least_length", "least").unique(list(by), keep="first", maintain_order=True)
    high = parts.sort("greatest_length", "greatest").unique(list(by), keep="last", maintain_order=True)
    return low.select(*by, "least_length", "least").join(
        high.select(*by, "greatest_length", "greatest"), on=list(by)
    )


def _read_month(
    table: Table, month: str, files: Sequence[LiveFile], months: set[str]
) -> tuple[pl.DataFrame, list[LiveFile]]:
    """The ranges of a month's files, from the cache or from the files, and the files with unknown ranges."""
    location = f"{_range_folder(table)}/{month}.arrow"
    live = pl.DataFrame(
        {"path": [f.path for f in files], "bytes": [f.file.file_size_in_bytes for f in files]},
        schema={name: _SCHEMA[name] for name in ("path", "bytes")},
    )
    ranges = _RANGE_CACHE.get(location)
    if ranges is None:
        ranges = _load_month(table, location)
    missing = _files_without_range(ranges, files)
    needs_save = (
        len(missing) >= _MAX_UNSAVED_FILES or sum(f.file.record_count for f in missing) >= _MAX_UNSAVED_ROWS
    )
    if needs_save:  # another process may have saved the ranges meanwhile
        ranges = pl.concat([ranges, _load_month(table, location)]).unique(["path", *_MARKET])
        missing = _files_without_range(ranges, files)
    new_ranges, unknown = _read_all(table, missing)
    ranges = pl.concat([ranges.join(live, on=["path", "bytes"], how="semi"), *new_ranges])
    _RANGE_CACHE.put(location, ranges)
    if needs_save and new_ranges:
        _save_month(table, location, ranges, months)
    return ranges, unknown


def _files_without_range(ranges: pl.DataFrame, files: Sequence[LiveFile]) -> list[LiveFile]:
    with_range = set(ranges.select("path", "bytes").unique().iter_rows())
    return [f for f in files if (f.path, f.file.file_size_in_bytes) not in with_range]


def _read_all(table: Table, files: Sequence[LiveFile]) -> tuple[list[pl.DataFrame], list[LiveFile]]:
    if not files:
        return [], []
    with ThreadPoolExecutor(_THREADS) as pool:
        ranges = list(pool.map(lambda file: _read(table, file), files))
    unknown = [file for file, frame in zip(files, ranges, strict=True) if frame is None]
    return [frame for frame in ranges if frame is not None], unknown


def _read(table: Table, live: LiveFile) -> pl.DataFrame | None:
    """Read the ranges of a data file; None where its columns cannot be identified."""
    if live.file.file_format != FileFormat.PARQUET:
        return None
    parts = []
    with table.io.new_input(live.path).open() as stream, pq.ParquetFile(stream) as parquet:
        names = _stored_column_names(table, parquet.schema_arrow)
        if names is None:
            return None
        for batch in parquet.iter_batches(_PIECE_ROWS, columns=list(names)):
            rows = pl.DataFrame(pa.Table.from_batches([batch])).rename(names).cast(pl.String)
            parts.append(group_id_ranges(rows, _MARKET))
    if not parts:
        return None
    ranges = _merge_ranges(pl.concat(parts), _MARKET).with_columns(
        pl.lit(live.path).alias("path"), pl.lit(live.file.file_size_in_bytes, pl.Int64).alias("bytes")
    )
    return ranges.select(list(_SCHEMA))


def _stored_column_names(table: Table, stored: pa.Schema) -> dict[str, str] | None:
    """The table's column name by the name in a data file; None where a column is missing.

    Columns are identified by field id, because a column may have been renamed.
    """
    names_by_id = {str(table.schema().find_field(name).field_id): name for name in (*_MARKET, "trade_id")}
    names = {}
    for field in stored:
        number = (field.metadata or {}).get(b"PARQUET:field_id", b"").decode()
        if number in names_by_id:
            names[field.name] = names_by_id[number]
    return names if len(names) == len(names_by_id) else None


def _range_folder(table: Table) -> str:
    return f"{table.location().rstrip('/')}/trade-ids/{table.metadata.table_uuid}"


def _load_month(table: Table, location: str) -> pl.DataFrame:
    """Load the cached ranges of a month; empty where the cache file is missing, damaged or outdated."""
    empty = pl.DataFrame(schema=_SCHEMA)
    try:
        with table.io.new_input(location).open() as stream:
            content = stream.read()
        # Two processes may write the file simultaneously. The digest tells whether it is complete.
        if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
            return empty
        frame = pl.read_ipc(io.BytesIO(content[_DIGEST_BYTES:]))
    except (OSError, pl.exceptions.PolarsError):
        return empty
    return frame if dict(frame.schema) == _SCHEMA else empty


def _save_month(table: Table, location: str, ranges: pl.DataFrame, months: set[str]) -> None:
    """Write the cache file of a month, and remove the files of months without data files."""
    sink = io.BytesIO()
    ranges.write_ipc(sink, compression="zstd")
    content = sink.getvalue()
    try:
        with table.io.new_output(location).create(overwrite=True) as stream:
            stream.write(hashlib.sha256(content).digest() + content)
        _remove_unused_months(table, months)
    except OSError as error:
        # Without the cache file the next process reads the data files again.
        _log.warning("ranges of trade ids were not saved", table=table.name()[-1], error=str(error))


def _remove_unused_months(table: Table, months: set[str]) -> None:
    properties = table.io.properties
    scheme, host, folder = PyArrowFileIO.parse_location(_range_folder(table), properties)
    files = PyArrowFileIO(properties).fs_by_scheme(scheme, host)
    for info in files.get_file_info(FileSelector(folder, allow_not_found=True)):
        month, _, extension = info.base_name.partition(".")
        if extension == "arrow" and month not in months:
            files.delete_file(info.path)


class _RangeCache:
    """The ranges that this process used last, by location, up to `_MAX_ROWS_IN_MEMORY` rows in total."""

    def __init__(self) -> None:
        self._frames: OrderedDict[str, pl.DataFrame] = OrderedDict()
        self._lock = Lock()

    def get(self, location: str) -> pl.DataFrame | None:
        with self._lock:
            return self._frames.get(location)

    def put(self, location: str, frame: pl.DataFrame) -> None:
        with self._lock:
            self._frames[location] = frame
            self._frames.move_to_end(location)
            while sum(f.height for f in self._frames.values()) > _MAX_ROWS_IN_MEMORY and self._frames:
                self._frames.popitem(last=False)


_RANGE_CACHE = _RangeCache()
