"""Which data files the row-level deletes of a snapshot bear on, by Iceberg's rules of scope and sequence.

A position delete or deletion vector bears on data files of lower or equal sequence numbers, an equality
delete on lower ones only. Without a file that it names, a delete bears on its partition; an equality delete
that is not partitioned bears on all. Which rows it deletes there, only the engine knows.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table

from k2_ohlcv.lake.files import LiveFile, numbered_deletes, target


@dataclass
class RowDeletes:
    """The greatest sequence number of the deletes of each scope; lower data files are borne on.

    An equality delete counts with its number less one, so that one comparison serves all kinds.
    """

    _by_path: dict[str, int] = field(default_factory=dict)
    _by_partition: dict[Hashable, int] = field(default_factory=dict)
    _everywhere: int = -1

    @classmethod
    def of(cls, table: Table, snapshot_id: int) -> "RowDeletes":
        """The row-level deletes that are live at a snapshot."""
        unpartitioned = {number for number, spec in table.specs().items() if not spec.fields}
        return cls.among(numbered_deletes(table, snapshot_id), unpartitioned)

    @classmethod
    def among(cls, numbered: Iterable[tuple[DataFile, int]], unpartitioned: Iterable[int]) -> "RowDeletes":
        """From delete files with their sequence numbers, and the ids of specs without partitions."""
        found, bare = cls(), set(unpartitioned)
        for file, sequence in numbered:
            equality = file.content == DataFileContent.EQUALITY_DELETES
            reach = sequence - 1 if equality else sequence
            if (path := target(file)) is not None:
                found._by_path[path] = max(found._by_path.get(path, -1), reach)
            elif equality and file.spec_id in bare:
                found._everywhere = max(found._everywhere, reach)
            else:
                scope = _scope(file)
                found._by_partition[scope] = max(found._by_partition.get(scope, -1), reach)
        return found

    def bear_on(self, file: LiveFile) -> bool:
        """Whether any may have deleted rows of a data file."""
        reach = max(
            self._everywhere,
            self._by_path.get(file.path, -1),
            self._by_partition.get(_scope(file.file), -1),
        )
        return file.sequence <= reach


def _scope(file: DataFile) -> Hashable:
    return (file.spec_id, tuple(file.partition[i] for i in range(len(file.partition))))
