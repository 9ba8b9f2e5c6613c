"""Which data files the row-level deletes of a snapshot bear on, by Iceberg's rules of scope and sequence.

A position delete or deletion vector bears on data files of lower or equal sequence numbers, an equality
delete on lower ones only. Without a file that it names, a delete bears on its partition; an equality delete
that is not partitioned bears on all. Which rows it deletes there, only the engine knows.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table

from k2_ohlcv.lake.metadata.manifests import deleted_file, deletes_with_sequence


@dataclass
class RowDeletes:
    """Delete files by their scope, each with the greatest sequence number of the data files it bears on."""

    _by_path: dict[str, list[tuple[DataFile, int]]] = field(default_factory=dict)
    _by_partition: dict[Hashable, list[tuple[DataFile, int]]] = field(default_factory=dict)
    _everywhere: list[tuple[DataFile, int]] = field(default_factory=list)

    @classmethod
    def from_snapshot(cls, table: Table, snapshot_id: int) -> "RowDeletes":
        """The row-level deletes that are live at a snapshot."""
        return cls.from_files(table, deletes_with_sequence(table, snapshot_id))

    @classmethod
    def from_files(cls, table: Table, numbered: Iterable[tuple[DataFile, int]]) -> "RowDeletes":
        """From some delete files of a table with their sequence numbers."""
        found = cls()
        bare = {number for number, spec in table.specs().items() if not spec.fields}
        for file, sequence in numbered:
            equality = is_equality_delete(file)
            reach = (file, sequence - 1 if equality else sequence)
            if (path := deleted_file(file)) is not None:
                found._by_path.setdefault(path, []).append(reach)
            elif equality and file.spec_id in bare:
                found._everywhere.append(reach)
            else:
                found._by_partition.setdefault(_delete_scope(file), []).append(reach)
        return found

    def deletes_for(self, file: DataFile, sequence: int) -> list[DataFile]:
        """The delete files that may have deleted rows of a data file of that sequence number."""
        scopes = (
            self._everywhere,
            self._by_path.get(file.file_path, ()),
            self._by_partition.get(_delete_scope(file), ()),
        )
        return [delete for scope in scopes for delete, reach in scope if sequence <= reach]


def is_equality_delete(file: DataFile) -> bool:
    """Whether a file deletes rows by their values. PyIceberg 0.12 cannot read beside such files."""
    return bool(file.content == DataFileContent.EQUALITY_DELETES)


def _delete_scope(file: DataFile) -> Hashable:
    return (file.spec_id, tuple(file.partition[i] for i in range(len(file.partition))))
