"""A plain table in Parquet: the same names as in CSV, in whatever types it has."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.sources import table
from k2_ohlcv.sources.batch import Rows
from k2_ohlcv.sources.layout import Layout

_BATCH_ROWS = 250_000


def layout_of(path: Path) -> Layout:
    """The layout of a Parquet file.

    Raises:
        BadFileError: it is cut or broken, has no rows, or other columns.
    """
    try:
        with pq.ParquetFile(path) as file:
            names, rows, schema = file.schema_arrow.names, file.metadata.num_rows, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise BadFileError(f"{path}: the Parquet file cannot be read ({error}): fetch it again") from error
    try:
        layout = table.layout(names)
    except BadFileError as error:
        raise BadFileError(f"{path}: {error}") from None
    if layout is None:
        raise BadFileError(
            f"{path}: has the columns {', '.join(names)[:200]}: needed are timestamp, price and quantity "
            "(or amount, qty, size)"
        )
    if not rows:
        raise BadFileError(f"{path}: the file holds no rows: fetch it again")
    for role, at in layout.roles.items():
        _check_type(path, role, names[at], schema.field(at).type)
    return layout


def _check_type(path: Path, role: str, name: str, kind: pa.DataType) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text, whole = pa.types.is_string(kind) or pa.types.is_large_string(kind), pa.types.is_integer(kind)
    number = whole or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    fits = {"timestamp": text or number or time, "price": text or number, "quantity": text or number}
    if not fits.get(role, text or whole):
        raise BadFileError(
            f"{path}: the column {name} is of type {kind}, which is no {role}: convert it first"
        )


def read(path: Path, layout: Layout) -> Iterator[Rows]:
    """The rows of a Parquet file; a row's line is its 1-based number.

    Raises:
        BadFileError: the file breaks off.
    """
    first = 1
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = {role: names[at] for role, at in layout.roles.items()}
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(wanted.values())):
                yield _rows(batch, wanted, first)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise BadFileError(
            f"{path}: the Parquet file cannot be read to its end ({error}): fetch it again"
        ) from error


def _rows(batch: pa.RecordBatch, wanted: dict[str, str], first: int) -> Rows:
    columns = {role: _plain(batch.column(name)) for role, name in wanted.items()}

    def raw(row: int) -> str:
        cells = (column[row].as_py() for column in columns.values())
        return ",".join("" if cell is None else str(cell) for cell in cells)

    return Rows(columns, np.arange(first, first + batch.num_rows, dtype=np.int64), raw)


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    return pc.cast(column, pa.string()) if pa.types.is_large_string(column.type) else column
