"""Rejects snapshots with files that the engine does not support. The error names the remedy.

The tests check this with Sail 0.7.2, and with Spark 4.1 and Iceberg 1.12. Both engines support position
deletes, deletion vectors and equality deletes. Sail supports only Parquet and Puffin files, and no equality
deletes by float or double. Spark reads files without field ids by the table's name mapping. Sail ignores the
name mapping.
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
    """Check the delete files and the name mapping of a snapshot before any computation.

    Raises:
        TableSpecError: the engine does not support some files. The message names their kinds.
    """
    if not engine.embedded:
        return
    unsupported: dict[str, list[str]] = {}
    for file in delete_files(trades, snapshot):
        if reason := _unsupported_reason(trades, file):
            unsupported.setdefault(reason, []).append(file.file_path)
    if paths := find_files_by_name(trades, snapshot):
        unsupported["data without field ids, for which the table's name mapping has other names"] = paths
    if unsupported:
        raise _support_error(trades, snapshot, unsupported)


def _unsupported_reason(trades: Table, file: DataFile) -> str | None:
    kind = "equality" if file.content == DataFileContent.EQUALITY_DELETES else "position"
    if file.file_format not in {FileFormat.PARQUET, FileFormat.PUFFIN}:
        return f"{kind} deletes in {file.file_format.value} files"
    texts = [_float_key_text(trades, field_id) for field_id in file.equality_ids or []]
    names = [text for text in texts if text]
    return f"equality deletes by {', '.join(names)}" if names else None


def _float_key_text(trades: Table, field_id: int) -> str | None:
    """Describe a float key column, which may be in an older schema only. None for other types."""
    schemas = sorted(trades.schemas().values(), key=lambda schema: schema.schema_id, reverse=True)
    for schema in (trades.schema(), *schemas):
        if name := schema.find_column_name(field_id):
            kind = schema.find_field(field_id).field_type
            return f"the {kind} column {name}" if isinstance(kind, DoubleType | FloatType) else None
    return None


def explain_read_error(engine: Engine, trades: Table, snapshot: int, error: Exception) -> None:
    """Explain a read error if its cause is a file format that the engine does not support.

    Raises:
        TableSpecError: the table has files of such a format.
    """
    if not engine.embedded:
        return
    unsupported: dict[str, list[str]] = {}
    for file in data_files(trades, snapshot):
        if file.file_format != FileFormat.PARQUET:
            unsupported.setdefault(f"data in {file.file_format.value} files", []).append(file.file_path)
    if unsupported:
        raise _support_error(trades, snapshot, unsupported) from error


def _support_error(trades: Table, snapshot: int, unsupported: dict[str, list[str]]) -> TableSpecError:
    name = ".".join(trades.name())
    kinds = "; ".join(
        f"{len(paths)} of {reason} "
        f"({', '.join(paths[:_MAX_SAMPLE_FILES])}{', ...' if len(paths) > _MAX_SAMPLE_FILES else ''})"
        for reason, paths in unsupported.items()
    )
    return TableSpecError(
        f"Sail cannot read table {name} at snapshot {snapshot} as it is: {kinds}. Nothing was computed. "
        "Rewrite the table's files as Parquet without such deletes (in Spark: CALL "
        f"k2.system.rewrite_data_files(table => '{name}', options => map('rewrite-all', 'true'))), or "
        "compute on Apache Spark by setting SPARK_REMOTE"
    )
