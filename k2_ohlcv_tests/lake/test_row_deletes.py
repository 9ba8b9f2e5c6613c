"""Which delete files apply to which data files, by scope and sequence number."""

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


def file(
    content: DataFileContent, *partition: int, path: str = "a", names_file: str | None = None
) -> DataFile:
    """A file of spec 1 if it has a partition, else of spec 0."""
    bounds = {PATH: names_file.encode()} if names_file else {}
    data_file = DataFile.from_args(
        content=content,
        file_path=path,
        partition=Record(*partition),
        lower_bounds=bounds,
        upper_bounds=bounds,
    )
    data_file.spec_id = len(partition)
    return data_file


@pytest.mark.parametrize(
    ("delete", "data", "newest"),
    [
        # Position deletes apply to files of their own sequence number too, equality deletes do not.
        (file(POSITIONS, 5), file(DATA, 5), 3),
        (file(EQUALITY, 5), file(DATA, 5), 2),
        (file(POSITIONS, 5), file(DATA, 6), None),
        (file(EQUALITY, 5), file(DATA, 6), None),
        # A delete that names a file applies to that file in any partition.
        (file(POSITIONS, 5, names_file="a"), file(DATA, 6), 3),
        (file(POSITIONS, 5, names_file="b"), file(DATA, 5), None),
        # Without a partition, equality deletes apply to all files, position deletes to files of their spec.
        (file(EQUALITY), file(DATA, 5), 2),
        (file(EQUALITY), file(DATA), 2),
        (file(POSITIONS), file(DATA), 3),
        (file(POSITIONS), file(DATA, 5), None),
    ],
)
def test_a_delete_applies_to_its_scope_up_to_a_sequence_number(
    delete: DataFile, data: DataFile, newest: int | None
) -> None:
    """The delete has sequence number 3. `newest` is the newest data file to which it applies."""
    deletes = RowDeletes.from_files(TABLE, [(delete, 3)])
    assert [n for n in range(1, 6) if deletes.deletes_for(data, n)] == list(range(1, (newest or 0) + 1))


def test_every_delete_of_a_scope_is_found() -> None:
    """Each kind of delete is returned once."""
    delete_files = [
        file(EQUALITY),
        file(POSITIONS, 5),
        file(POSITIONS, 5),
        file(POSITIONS, 5, names_file="a"),
    ]
    delete_files += [file(EQUALITY), file(POSITIONS, 5, names_file="a")]
    deletes = RowDeletes.from_files(TABLE, [(delete, 3) for delete in delete_files]).deletes_for(
        file(DATA, 5), 1
    )
    assert sorted(map(id, deletes)) == sorted(map(id, delete_files))
