"""Appends that hold: rows go in only against the very snapshot that they were checked against.

PyIceberg would put an append on top of whatever is there by then; for rows that must not be in the table yet
that is a double. So each attempt loads the table once, asks what of the rows is new in that snapshot, and
commits against it; where another commit came between, it begins again from the load.
"""

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, In, LessThanOrEqual, Reference
from pyiceberg.expressions.literals import literal
from pyiceberg.io.pyarrow import write_file
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.table import Table, WriteTask
from pyiceberg.table.snapshots import Operation

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.lake.commit import TableCommit, commit_change, remove_uncommitted_files
from k2_ohlcv.lake.retry import retry_conflicts

#: Enough for many writers of small files beside one of a large one.
MAX_APPEND_ATTEMPTS = 20
#: Two files of a busy day are written side by side; more would only be more to open.
FILE_ROWS = 1_250_000


@dataclass
class _WrittenFiles:
    """Data files that no snapshot has yet, and the rows in them."""

    table: uuid.UUID
    rows: pa.Table
    files: list[DataFile]


def append_new(
    load: Callable[[], Table],
    find_new: Callable[[Table], pa.Table],
    protected: Callable[[Table], Collection[int]] = lambda _: (),
) -> Table:
    """Append what is new of some rows, in one snapshot, or nothing where nothing is.

    Args:
        load: loads the table, as the catalog has it now.
        find_new: the rows that the given table does not have, in the table's schema and sort order.
        protected: snapshots that the commit may not expire, asked immediately before it.

    Returns:
        The table that has the rows.

    Raises:
        CommitConflictError: others committed first, each time.
    """
    written: _WrittenFiles | None = None

    def attempt(table: Table) -> Table:
        nonlocal written
        rows = find_new(table)
        if written and (written.table != table.metadata.table_uuid or not written.rows.equals(rows)):
            remove_uncommitted_files(table, written.files)
            written = None
        if not rows.num_rows:
            return table
        written = written or _WrittenFiles(table.metadata.table_uuid, rows, list(write_files(table, rows)))
        # Tags and watermarks may be newer than the loaded table: a stale look would drop what they hold.
        latest = load()
        if latest.metadata.table_uuid != table.metadata.table_uuid:
            raise CommitFailedException("the table was replaced")
        change = TableCommit(
            files=tuple(written.files),
            has_reusable_files=True,
            operation=Operation.APPEND,
            protected=frozenset(protected(latest)),
        )
        return commit_change(table, change)

    try:
        return retry_conflicts(
            load,
            attempt,
            attempts=MAX_APPEND_ATTEMPTS,
            advice="nothing of this batch was added. Run it again: what is in already is not added twice",
        )
    except CommitConflictError:
        if written:
            remove_uncommitted_files(load(), written.files)
        raise


def write_files(table: Table, rows: pa.Table) -> Iterator[DataFile]:
    """Write rows, sorted by the partition's column, as data files of their partitions, uncommitted."""
    commit, schema = uuid.uuid4(), table.schema()
    rows = rows.cast(schema.as_arrow())
    tasks = (
        WriteTask(
            write_uuid=commit,
            task_id=number,
            schema=schema,
            record_batches=part.combine_chunks().to_batches(),
            partition_key=key,
        )
        for number, (key, part) in enumerate(_split_by_partition(table, rows))
    )
    return write_file(io=table.io, table_metadata=table.metadata, tasks=tasks)


def _split_by_partition(table: Table, rows: pa.Table) -> Iterator[tuple[PartitionKey, pa.Table]]:
    field = table.spec().fields[0]
    source = table.schema().find_field(field.source_id)
    values = field.transform.pyarrow_transform(source.field_type)(rows[source.name].combine_chunks())
    ends = pc.run_end_encode(values)
    start = 0
    for end, value in zip(ends.run_ends.to_pylist(), ends.values.to_pylist(), strict=True):
        key = PartitionKey([PartitionFieldValue(field, value)], table.spec(), table.schema())
        pieces = -(-(end - start) // FILE_ROWS)
        size = -(-(end - start) // pieces)
        for at in range(start, end, size):
            yield key, rows.slice(at, min(size, end - at))
        start = end


def is_one_of(column: str, values: Iterable[str]) -> BooleanExpression:
    """A row filter: the column is one of the values."""
    # pydantic's generated signature hides the one that In really has
    return In(Reference(column), {literal(value) for value in values})  # type: ignore[call-arg,arg-type]


def is_between(column: str, least: str | int, greatest: str | int) -> BooleanExpression:
    """A row filter: the column is neither less nor greater."""
    term = Reference(column)
    return And(
        GreaterThanOrEqual(term=term, value=literal(least)),
        LessThanOrEqual(term=term, value=literal(greatest)),
    )
