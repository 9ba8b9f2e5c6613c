"""Reads Parquet tables of trades. Column names are the same as in CSV. Column types may vary."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.domain.printable import make_printable, make_printable_path
from k2_ohlcv.sources.decimals import MAX_NUMBER_LENGTH
from k2_ohlcv.sources.formats import generic
from k2_ohlcv.sources.formats.layout import Layout
from k2_ohlcv.sources.rows import RawRows

_BATCH_ROWS = 250_000
#: The most bytes of a batch, estimated from the file's metadata.
_BATCH_BYTES = 64 << 20


def parquet_layout(path: Path) -> Layout:
    """Read the layout of a Parquet file from its schema.

    Raises:
        BadFileError: the file is broken, has no rows, or does not have the required columns.
    """
    try:
        with pq.ParquetFile(path) as file:
            names, rows, schema = file.schema_arrow.names, file.metadata.num_rows, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise BadFileError(
            f"{make_printable_path(path)}: the Parquet file cannot be read "
            f"({make_printable(error)}): download it again"
        ) from error
    try:
        layout = generic.layout_from_header(names)
    except BadFileError as error:
        raise BadFileError(f"{make_printable_path(path)}: {error}") from None
    if layout is None:
        raise BadFileError(
            f"{make_printable_path(path)}: has the columns {make_printable(', '.join(names))}: "
            "required are timestamp, price and quantity (or amount, qty, size)"
        )
    if not rows:
        raise BadFileError(f"{make_printable_path(path)}: the file has no rows: download it again")
    for role, at in layout.roles.items():
        _check_column_type(path, role, names[at], schema.field(at).type)
    return layout


def _check_column_type(path: Path, role: str, name: str, kind: pa.DataType) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text, whole = pa.types.is_string(kind) or pa.types.is_large_string(kind), pa.types.is_integer(kind)
    number = whole or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    fits = {"timestamp": text or number or time, "price": text or number, "quantity": text or number}
    if not fits.get(role, text or whole):
        raise BadFileError(
            f"{make_printable_path(path)}: the column {make_printable(name)} is of type "
            f"{make_printable(kind)}, which cannot be a {role}: convert it first"
        )


def read_parquet(path: Path, layout: Layout) -> Iterator[RawRows]:
    """Read the rows of a Parquet file. The line of a row is its 1-based row number.

    Raises:
        BadFileError: the file cannot be read to its end.
    """
    first = 1
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            names_by_role = {role: names[at] for role, at in layout.roles.items()}
            rows = _batch_rows(file.metadata)
        text_columns = _text_columns(path, names_by_role.values())
        with pq.ParquetFile(path, read_dictionary=text_columns) as file:
            for batch in file.iter_batches(rows, columns=list(names_by_role.values())):
                yield _raw_rows(batch, names_by_role, first)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise BadFileError(
            f"{make_printable_path(path)}: the Parquet file cannot be read to its end "
            f"({make_printable(error)}): download it again"
        ) from error


def _batch_rows(metadata: pq.FileMetaData) -> int:
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(widest, 1)))


def _text_columns(path: Path, names: Iterable[str]) -> list[str]:
    """Find the columns of text. They are read as dictionaries, so a repeated text is stored only once."""
    schema = pq.read_schema(path)
    kinds = ((name, schema.field(name).type) for name in names)
    return [name for name, kind in kinds if pa.types.is_string(kind) or pa.types.is_large_string(kind)]


def _raw_rows(batch: pa.RecordBatch, names_by_role: dict[str, str], first: int) -> RawRows:
    columns = {role: _decode_dictionary(batch.column(name)) for role, name in names_by_role.items()}

    def raw(row: int) -> str:
        return ",".join(_cell_text(column, row) for column in columns.values())

    return RawRows(columns, np.arange(first, first + batch.num_rows, dtype=np.int64), raw)


def _cell_text(column: pa.Array, row: int) -> str:
    try:
        value = column[row].as_py()
    except (ValueError, OverflowError):  # a time outside Python's range: show its number
        value = column.slice(row, 1).view(pa.int64())[0]
    return "" if value is None else str(value)


def _decode_dictionary(column: pa.Array) -> pa.Array:
    """Decode a dictionary column. Texts that are too long are cut, and rejected later."""
    if pa.types.is_dictionary(column.type):
        values = _as_text(column.dictionary)
        return values.take(column.indices) if pa.types.is_string(values.type) else column.dictionary_decode()
    return _as_text(column)


def _as_text(column: pa.Array) -> pa.Array:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:  # only rows with bytes that are not UTF-8 are rejected
        column = pa.array([_decode_value(value) for value in pc.cast(column, pa.large_binary())], pa.string())
    if (pc.max(pc.binary_length(column)).as_py() or 0) > MAX_NUMBER_LENGTH:
        # One character too long, so that the row is rejected for its length.
        column = pc.utf8_slice_codeunits(column, 0, MAX_NUMBER_LENGTH + 1)
    return pc.cast(column, pa.string())


def _decode_value(value: pa.Scalar) -> str | None:
    data: bytes | None = value.as_py()
    return None if data is None else data.decode("utf-8", "replace")
