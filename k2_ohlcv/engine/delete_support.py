"""What an engine cannot honour in a table's snapshot, refused with what to do instead.

Found by trial with Sail 0.7.2 and Spark 4.1 with Iceberg 1.12, and held so by the tests. Both honour position
deletes, deletion vectors and equality deletes. Sail reads Parquet and Puffin only, and no equality deletes by
float or double. Spark reads files without field ids by the table's name mapping; Sail does not look at it.
"""

from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.types import DoubleType, FloatType

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.metadata.manifests import data_files, delete_files
from k2_ohlcv.lake.metadata.name_mapping import find_files_by_name

_MAX_SAMPLE_FILES = 3


def reject_unsupported_deletes(engine: Engine, trades: Table, snapshot: int) -> None:
    """Look at a snapshot's delete files and at how its data files name columns, before anything is computed.

    Raises:
        ContractError: the engine would not honour some; the message names their kinds.
    """
    if not engine.embedded:
        return
    found: dict[str, list[str]] = {}
    for file in delete_files(trades, snapshot):
        if why := _unsupported_reason(trades, file):
            found.setdefault(why, []).append(file.file_path)
    if bare := find_files_by_name(trades, snapshot):
        found["data without field ids, of which the table's name mapping says other names"] = bare
    if found:
        raise _support_error(trades, snapshot, found)


def _unsupported_reason(trades: Table, file: DataFile) -> str | None:
    kind = "equality" if file.content == DataFileContent.EQUALITY_DELETES else "position"
    if file.file_format not in {FileFormat.PARQUET, FileFormat.PUFFIN}:
        return f"{kind} deletes in {file.file_format.value} files"
    inexact = [_float_key_text(trades, number) for number in file.equality_ids or []]
    names = [name for name in inexact if name]
    return f"equality deletes by {', '.join(names)}" if names else None


def _float_key_text(trades: Table, number: int) -> str | None:
    """A float key as people call it: the column may be of an older schema."""
    schemas = sorted(trades.schemas().values(), key=lambda schema: schema.schema_id, reverse=True)
    for schema in (trades.schema(), *schemas):
        if name := schema.find_column_name(number):
            kind = schema.find_field(number).field_type
            return f"the {kind} column {name}" if isinstance(kind, DoubleType | FloatType) else None
    return None


def explain_read_error(engine: Engine, trades: Table, snapshot: int, error: Exception) -> None:
    """Say in words why reading failed, where it is that the engine does not read such files.

    Raises:
        ContractError: it does not.
    """
    if not engine.embedded:
        return
    found: dict[str, list[str]] = {}
    for file in data_files(trades, snapshot):
        if file.file_format != FileFormat.PARQUET:
            found.setdefault(f"data in {file.file_format.value} files", []).append(file.file_path)
    if found:
        raise _support_error(trades, snapshot, found) from error


def _support_error(trades: Table, snapshot: int, found: dict[str, list[str]]) -> TableSpecError:
    name = ".".join(trades.name())
    kinds = "; ".join(
        f"{len(paths)} of {why} "
        f"({', '.join(paths[:_MAX_SAMPLE_FILES])}{', ...' if len(paths) > _MAX_SAMPLE_FILES else ''})"
        for why, paths in found.items()
    )
    return TableSpecError(
        f"Sail cannot read table {name} at snapshot {snapshot} as it is: {kinds}. Nothing was computed. "
        "Rewrite the table's files as Parquet without such deletes (in Spark: CALL "
        f"k2.system.rewrite_data_files(table => '{name}', options => map('rewrite-all', 'true'))), or "
        "compute on Apache Spark by setting SPARK_REMOTE"
    )
