"""Finds the delete files that apply to a data file, by Iceberg's rules of scope and sequence number.

A position delete or deletion vector applies to data files of lower or equal sequence numbers. An equality
delete applies to lower numbers only. A delete that names no data file applies to its partition. An
unpartitioned equality delete applies to all data files. The deleted rows themselves are found by the engine.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table

from k2_ohlcv.lake.metadata.manifests import deleted_file, deletes_with_sequence


@dataclass
class RowDeletes:
    """Delete files by scope, each with the greatest sequence number of the data files it applies to."""

    _by_path: dict[str, list[tuple[DataFile, int]]] = field(default_factory=dict)
    _by_partition: dict[Hashable, list[tuple[DataFile, int]]] = field(default_factory=dict)
    _everywhere: list[tuple[DataFile, int]] = field(default_factory=list)

    @classmethod
    def from_snapshot(cls, table: Table, snapshot_id: int) -> "RowDeletes":
        """Read the row-level deletes that are live at a snapshot."""
        return cls.from_files(table, deletes_with_sequence(table, snapshot_id))

    @classmethod
    def from_files(cls, table: Table, numbered: Iterable[tuple[DataFile, int]]) -> "RowDeletes":
        """Sort delete files with their sequence numbers by scope."""
        deletes = cls()
        unpartitioned = {number for number, spec in table.specs().items() if not spec.fields}
        for file, sequence in numbered:
            is_equality = is_equality_delete(file)
            delete = (file, sequence - 1 if is_equality else sequence)
            if (path := deleted_file(file)) is not None:
                deletes._by_path.setdefault(path, []).append(delete)
            elif is_equality and file.spec_id in unpartitioned:
                deletes._everywhere.append(delete)
            else:
                deletes._by_partition.setdefault(_delete_scope(file), []).append(delete)
        return deletes

    def deletes_for(self, file: DataFile, sequence: int) -> list[DataFile]:
        """The delete files that apply to a data file of that sequence number."""
        scopes = (
            self._everywhere,
            self._by_path.get(file.file_path, ()),
            self._by_partition.get(_delete_scope(file), ()),
        )
        return [delete for scope in scopes for delete, greatest in scope if sequence <= greatest]


def is_equality_delete(file: DataFile) -> bool:
    """Whether a file deletes rows by their values. PyIceberg 0.12 cannot apply such deletes."""
    return bool(file.content == DataFileContent.EQUALITY_DELETES)


def _delete_scope(file: DataFile) -> Hashable:
    return (file.spec_id, tuple(file.partition[i] for i in range(len(file.partition))))
