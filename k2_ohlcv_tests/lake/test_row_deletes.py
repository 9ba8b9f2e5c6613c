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
def test_deletes_apply_up_to_a_sequence_number(delete: DataFile, data: DataFile, newest: int | None) -> None:
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


@pytest.mark.parametrize(
    ("content", "named", "partition", "applies"),
    [
        # Deletes of sequence number 5, on data of number 4, 5 and 6.
        (POSITIONS, None, (1,), [True, True, False]),
        (POSITIONS, "a", (1,), [True, True, False]),
        (EQUALITY, None, (1,), [True, False, False]),
        (EQUALITY, None, (), [True, False, False]),
    ],
)
def test_deletes_apply_to_their_scope_and_to_older_files(
    content: DataFileContent, named: str | None, partition: tuple[int, ...], applies: list[bool]
) -> None:
    """Deletes of a partition apply there, unpartitioned equality deletes in every partition."""
    deletes = RowDeletes.from_files(TABLE, [(file(content, *partition, names_file=named), 5)])
    assert [bool(deletes.deletes_for(file(DATA, 1), number)) for number in (4, 5, 6)] == applies
    elsewhere = [bool(deletes.deletes_for(file(DATA, 2, path="b"), number)) for number in (4, 5, 6)]
    assert elsewhere == ([False] * 3 if partition else applies)


def test_a_deletion_vector_applies_to_the_file_it_names() -> None:
    """The partition of the data file does not matter."""
    vector = file(POSITIONS, 1, path="v.puffin")
    vector.referenced_data_file = "a"  # of format version 3
    deletes = RowDeletes.from_files(TABLE, [(vector, 5)])
    assert deletes.deletes_for(file(DATA, 9), 5) == [vector]
    assert deletes.deletes_for(file(DATA, 1, path="b"), 5) == []


def test_deletes_do_not_apply_to_files_of_another_spec() -> None:
    """Partitions of two specs may have equal values, such as a day and a bucket."""
    data = file(DATA, 5)
    data.spec_id = 2
    deletes = RowDeletes.from_files(TABLE, [(file(POSITIONS, 5), 3), (file(EQUALITY, 5), 3)])
    assert deletes.deletes_for(data, 1) == []
