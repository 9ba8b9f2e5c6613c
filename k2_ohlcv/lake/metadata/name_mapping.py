"""Data files without field ids, and the names by which a table's name mapping tells their columns apart.

Such files come from other writers (`add_files`). A mapping that gives each column the one name that it always
had says nothing new: every reader takes the right column then.
"""

from collections import OrderedDict

import pyarrow.parquet as pq
from pyiceberg.manifest import FileFormat
from pyiceberg.table import Table

from k2_ohlcv.lake.metadata.manifests import data_files
from k2_ohlcv.lake.trade_columns import read_field_ids

_FIELD_ID = b"PARQUET:field_id"
#: Whether files have field ids, by path: a file never changes.
_IDS_BY_PATH: OrderedDict[str, bool] = OrderedDict()
_MAX_CACHED_PATHS = 100_000


def find_files_by_name(trades: Table, snapshot_id: int) -> list[str]:
    """The data files of a snapshot whose columns only the name mapping tells. Mostly none is opened."""
    if _is_unambiguous(trades):
        return []
    return [
        file.file_path
        for file in data_files(trades, snapshot_id)
        if file.file_format == FileFormat.PARQUET and not _has_field_ids(trades, file.file_path)
    ]


def _is_unambiguous(trades: Table) -> bool:
    """Whether the mapping gives each column that is read its one name, which never was another column's."""
    mapping = trades.name_mapping()
    if mapping is None:
        return True
    names = {field.field_id: set(field.names) for field in mapping.root}
    called: dict[int, set[str]] = {}
    meant: dict[str, set[int]] = {}
    for schema in trades.schemas().values():
        for field in schema.fields:
            called.setdefault(field.field_id, set()).add(field.name)
            meant.setdefault(field.name, set()).add(field.field_id)
    return all(
        len(called[number]) == 1
        and names.get(number) == called[number]
        and all(meant[name] == {number} for name in called[number])
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
