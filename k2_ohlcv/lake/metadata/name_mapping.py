"""Finds data files without field ids, whose columns only the table's name mapping identifies.

Other writers add such files (`add_files`). A name mapping is unambiguous if it gives each column the one name
that the column always had. Every reader then reads the right column.
"""

from collections import OrderedDict

import pyarrow.parquet as pq
from pyiceberg.manifest import FileFormat
from pyiceberg.table import Table

from k2_ohlcv.lake.metadata.manifests import data_files
from k2_ohlcv.lake.trade_columns import read_field_ids

_FIELD_ID = b"PARQUET:field_id"
#: Whether a file has field ids, by path. A file never changes.
_IDS_BY_PATH: OrderedDict[str, bool] = OrderedDict()
_MAX_CACHED_PATHS = 100_000


def find_files_by_name(trades: Table, snapshot_id: int) -> list[str]:
    """Find the data files of a snapshot whose columns only an ambiguous name mapping identifies.

    Most tables have no such mapping, and no file is read.
    """
    if _is_unambiguous(trades):
        return []
    return [
        file.file_path
        for file in data_files(trades, snapshot_id)
        if file.file_format == FileFormat.PARQUET and not _has_field_ids(trades, file.file_path)
    ]


def _is_unambiguous(trades: Table) -> bool:
    """Whether the mapping gives each read column its only name, which no other column ever had."""
    mapping = trades.name_mapping()
    if mapping is None:
        return True
    mapped_names = {field.field_id: set(field.names) for field in mapping.root}
    names_by_id: dict[int, set[str]] = {}
    ids_by_name: dict[str, set[int]] = {}
    for schema in trades.schemas().values():
        for field in schema.fields:
            names_by_id.setdefault(field.field_id, set()).add(field.name)
            ids_by_name.setdefault(field.name, set()).add(field.field_id)
    return all(
        len(names_by_id[number]) == 1
        and mapped_names.get(number) == names_by_id[number]
        and all(ids_by_name[name] == {number} for name in names_by_id[number])
        for number in read_field_ids(trades).values()
    )


def _has_field_ids(trades: Table, path: str) -> bool:
    if path not in _IDS_BY_PATH:
        with trades.io.new_input(path).open() as stream:
            schema = pq.read_schema(stream)
        _IDS_BY_PATH[path] = any(_FIELD_ID in (field.metadata or {}) for field in schema)
        while len(_IDS_BY_PATH) > _MAX_CACHED_PATHS:
            _IDS_BY_PATH.popitem(last=False)
    return _IDS_BY_PATH[path]
