"""The least and greatest trade id of each market in each data file of trades.

Ids are ordered by (length in bytes, text), so that plain numbers compare as numbers. A range says where an id
may be stored; the data file itself says whether it is there. Looking ids up is in `dedupe`.

Ranges are kept beside the table, one file a month: `<location>/trade-ids/<table uuid>/<month>.arrow`. That
file is only a cache. A data file never changes, so the path and size of a data file identify its ranges.
Ranges that are missing, torn or lost are read from the data files again.
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

#: A month's file is written again once so many data files, or so many of their rows, are not in it.
_MAX_UNSAVED_FILES = 16
_MAX_UNSAVED_ROWS = 250_000
#: Ranges that a process keeps in memory.
_MAX_ROWS_IN_MEMORY = 500_000
#: Data files that are read side by side, and the rows of a piece of one.
_THREADS = 4
_PIECE_ROWS = 250_000
_DIGEST = 32
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
    """The ranges of data files, month by month.

    Args:
        table: the trades table.
        files: all its live data files.

    Yields:
        A frame of `path`, `exchange`, `symbol` and the range (`least_length`, `least`, `greatest_length`,
        `greatest`), and the files whose ranges cannot be told: any id may be in those.
    """
    months: dict[str, list[LiveFile]] = defaultdict(list)
    for file in files:
        if file.file.record_count:
            months[f"{file.span.start:%Y-%m}"].append(file)
    for month, some in sorted(months.items()):
        yield _read_month(table, month, some, set(months))


def group_id_ranges(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """The range of `trade_id` in rows, for each group of some columns."""
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
    place = f"{_range_folder(table)}/{month}.arrow"
    live = pl.DataFrame(
        {"path": [f.path for f in files], "bytes": [f.file.file_size_in_bytes for f in files]},
        schema={name: _SCHEMA[name] for name in ("path", "bytes")},
    )
    known = _RANGE_CACHE.get(place)
    if known is None:
        known = _load_month(table, place)
    missing = _files_without_range(known, files)
    unkept = (
        len(missing) >= _MAX_UNSAVED_FILES or sum(f.file.record_count for f in missing) >= _MAX_UNSAVED_ROWS
    )
    if unkept:  # another process may have kept them since
        known = pl.concat([known, _load_month(table, place)]).unique(["path", *_MARKET])
        missing = _files_without_range(known, files)
    found, unknown = _read_all(table, missing)
    known = pl.concat([known.join(live, on=["path", "bytes"], how="semi"), *found])
    _RANGE_CACHE.put(place, known)
    if unkept and found:
        _save_month(table, place, known, months)
    return known, unknown


def _files_without_range(known: pl.DataFrame, files: Sequence[LiveFile]) -> list[LiveFile]:
    have = set(known.select("path", "bytes").unique().iter_rows())
    return [f for f in files if (f.path, f.file.file_size_in_bytes) not in have]


def _read_all(table: Table, files: Sequence[LiveFile]) -> tuple[list[pl.DataFrame], list[LiveFile]]:
    if not files:
        return [], []
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda file: _read(table, file), files))
    unknown = [file for file, frame in zip(files, found, strict=True) if frame is None]
    return [frame for frame in found if frame is not None], unknown


def _read(table: Table, live: LiveFile) -> pl.DataFrame | None:
    """The ranges of one data file, or None where its columns cannot be told."""
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
    found = _merge_ranges(pl.concat(parts), _MARKET).with_columns(
        pl.lit(live.path).alias("path"), pl.lit(live.file.file_size_in_bytes, pl.Int64).alias("bytes")
    )
    return found.select(list(_SCHEMA))


def _stored_column_names(table: Table, stored: pa.Schema) -> dict[str, str] | None:
    """Which columns of a data file hold our columns: by field id, as a column may have been renamed."""
    ours = {str(table.schema().find_field(name).field_id): name for name in (*_MARKET, "trade_id")}
    found = {}
    for field in stored:
        number = (field.metadata or {}).get(b"PARQUET:field_id", b"").decode()
        if number in ours:
            found[field.name] = ours[number]
    return found if len(found) == len(ours) else None


def _range_folder(table: Table) -> str:
    return f"{table.location().rstrip('/')}/trade-ids/{table.metadata.table_uuid}"


def _load_month(table: Table, place: str) -> pl.DataFrame:
    """What is kept of a month; nothing where the file is not there, torn, or of another form."""
    empty = pl.DataFrame(schema=_SCHEMA)
    try:
        with table.io.new_input(place).open() as stream:
            content = stream.read()
        # Two writers may write at once, and a reader may come between: only a whole file counts.
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return empty
        frame = pl.read_ipc(io.BytesIO(content[_DIGEST:]))
    except (OSError, pl.exceptions.PolarsError):
        return empty
    return frame if dict(frame.schema) == _SCHEMA else empty


def _save_month(table: Table, place: str, known: pl.DataFrame, months: set[str]) -> None:
    """Write a month's ranges, and remove the files of months without data files."""
    sink = io.BytesIO()
    known.write_ipc(sink, compression="zstd")
    content = sink.getvalue()
    try:
        with table.io.new_output(place).create(overwrite=True) as stream:
            stream.write(hashlib.sha256(content).digest() + content)
        _remove_unused_months(table, months)
    except OSError as error:
        # Only time is lost: whoever needs the ranges reads the data files again.
        _log.warning("ranges of trade ids were not kept", table=table.name()[-1], error=str(error))


def _remove_unused_months(table: Table, months: set[str]) -> None:
    properties = table.io.properties
    scheme, host, folder = PyArrowFileIO.parse_location(_range_folder(table), properties)
    files = PyArrowFileIO(properties).fs_by_scheme(scheme, host)
    for info in files.get_file_info(FileSelector(folder, allow_not_found=True)):
        month, _, kind = info.base_name.partition(".")
        if kind == "arrow" and month not in months:
            files.delete_file(info.path)


class _RangeCache:
    """The ranges that this process read last, by place, up to so many rows in all."""

    def __init__(self) -> None:
        self._frames: OrderedDict[str, pl.DataFrame] = OrderedDict()
        self._lock = Lock()

    def get(self, place: str) -> pl.DataFrame | None:
        with self._lock:
            return self._frames.get(place)

    def put(self, place: str, frame: pl.DataFrame) -> None:
        with self._lock:
            self._frames[place] = frame
            self._frames.move_to_end(place)
            while sum(f.height for f in self._frames.values()) > _MAX_ROWS_IN_MEMORY and self._frames:
                self._frames.popitem(last=False)


_RANGE_CACHE = _RangeCache()
