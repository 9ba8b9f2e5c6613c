"""Which delete files bear on which data files: by their scope and sequence number."""

from types import SimpleNamespace
from typing import Any

import pytest
from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.typedef import Record

from k2_ohlcv.lake.metadata.row_deletes import RowDeletes

DATA, POSITIONS, EQUALITY = (
    DataFileContent.DATA,
    DataFileContent.POSITION_DELETES,
    DataFileContent.EQUALITY_DELETES,
)
#: The id of the path column in position delete files.
PATH = 2147483546
#: A table whose spec 0 has no fields, and whose spec 1 has one.
TABLE: Any = SimpleNamespace(
    specs=lambda: {0: SimpleNamespace(fields=()), 1: SimpleNamespace(fields=("day",))}
)


def file(content: DataFileContent, *partition: int, path: str = "a", named: str | None = None) -> DataFile:
    """A file of spec 1 where it has a partition, else of spec 0."""
    bounds = {PATH: named.encode()} if named else {}
    made = DataFile.from_args(
        content=content,
        file_path=path,
        partition=Record(*partition),
        lower_bounds=bounds,
        upper_bounds=bounds,
    )
    made.spec_id = len(partition)
    return made


@pytest.mark.parametrize(
    ("delete", "data", "newest"),
    [
        # Position deletes bear on files as new as they are, equality deletes on older ones only.
        (file(POSITIONS, 5), file(DATA, 5), 3),
        (file(EQUALITY, 5), file(DATA, 5), 2),
        (file(POSITIONS, 5), file(DATA, 6), None),
        (file(EQUALITY, 5), file(DATA, 6), None),
        # One that names a file bears on that file, whatever partition it says.
        (file(POSITIONS, 5, named="a"), file(DATA, 6), 3),
        (file(POSITIONS, 5, named="b"), file(DATA, 5), None),
        # Without a partition: equality deletes bear on all files, others on those of their spec.
        (file(EQUALITY), file(DATA, 5), 2),
        (file(EQUALITY), file(DATA), 2),
        (file(POSITIONS), file(DATA), 3),
        (file(POSITIONS), file(DATA, 5), None),
    ],
)
def test_a_delete_bears_on_files_of_its_scope_up_to_a_sequence_number(
    delete: DataFile, data: DataFile, newest: int | None
) -> None:
    """The delete has sequence number 3; `newest` is the newest data file that it bears on."""
    deletes = RowDeletes.from_files(TABLE, [(delete, 3)])
    assert [n for n in range(1, 6) if deletes.deletes_for(data, n)] == list(range(1, (newest or 0) + 1))


def test_all_deletes_of_a_scope_are_told() -> None:
    every = [file(EQUALITY), file(POSITIONS, 5), file(POSITIONS, 5), file(POSITIONS, 5, named="a")]
    every += [file(EQUALITY), file(POSITIONS, 5, named="a")]
    found = RowDeletes.from_files(TABLE, [(delete, 3) for delete in every]).deletes_for(file(DATA, 5), 1)
    assert sorted(map(id, found)) == sorted(map(id, every))
