"""Appends that hold: rows go in only against the very snapshot that they were checked against.

PyIceberg would put an append on top of whatever is there by then; for rows that must not be in the table yet
that is a double. So each attempt loads the table once, asks what of the rows is new in that snapshot, and
commits against it; where another commit came between, it begins again from the load.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, In, LessThanOrEqual, Reference
from pyiceberg.expressions.literals import literal
from pyiceberg.io.pyarrow import write_file
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.table import Table, WriteTask
from pyiceberg.table.update.snapshot import ExpireSnapshots

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.lake.commit import CommitOf, remove_uncommitted

#: With pauses that grow, enough for many writers of small files beside one of a large one.
ATTEMPTS = 20
_PAUSE = 0.1
#: Two files of a busy day are written side by side; more would only be more to open.
FILE_ROWS = 1_250_000


@dataclass
class _Written:
    """Data files that no snapshot has yet, and the rows in them."""

    table: uuid.UUID
    rows: pa.Table
    files: list[DataFile]


def append_new(
    load: Callable[[], Table],
    find_new: Callable[[Table], pa.Table],
    expired: Callable[[Table], list[int]] = lambda _: [],
) -> Table:
    """Append what is new of some rows, in one snapshot, or nothing where nothing is.

    Args:
        load: loads the table, as the catalog has it now.
        find_new: the rows that the given table does not have, in the table's schema and sort order.
        expired: snapshots that the same commit may drop, asked immediately before it.

    Returns:
        The table that has the rows.

    Raises:
        CommitConflictError: others committed first, each time.
    """
    written: _Written | None = None
    for attempt in range(ATTEMPTS):
        table = load()
        rows = find_new(table)
        if written and (written.table != table.metadata.table_uuid or not written.rows.equals(rows)):
            remove_uncommitted(table, written.files)
            written = None
        if not rows.num_rows:
            return table
        written = written or _Written(table.metadata.table_uuid, rows, list(write(table, rows)))
        try:
            return _commit(load, table, written, expired)
        except (CommitFailedException, ValidationException):
            time.sleep(random.uniform(0, _PAUSE * (attempt + 1)))  # noqa: S311 - spreads writers, guards nothing
    if written:
        remove_uncommitted(load(), written.files)
    raise CommitConflictError(
        f"table {'.'.join(table.name())}: other writers were first in all of {ATTEMPTS} attempts; nothing "
        "of this batch was added. Run it again: what is in already is not added twice"
    )


def _commit(
    load: Callable[[], Table], table: Table, written: _Written, expired: Callable[[Table], list[int]]
) -> Table:
    transaction = CommitOf(table)
    with transaction.update_snapshot().merge_append() as append:
        for file in written.files:
            append.append_data_file(file)
    # Tags and watermarks may have come since the table was loaded: a stale look would drop what they hold.
    latest = load()
    if latest.metadata.table_uuid != table.metadata.table_uuid:
        raise CommitFailedException("the table was replaced")
    if drop := [i for i in expired(latest) if table.metadata.snapshot_by_id(i)]:
        ExpireSnapshots(transaction).by_ids(drop).commit()
    return transaction.commit_transaction()


def write(table: Table, rows: pa.Table) -> Iterator[DataFile]:
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
        for number, (key, part) in enumerate(_partitions(table, rows))
    )
    return write_file(io=table.io, table_metadata=table.metadata, tasks=tasks)


def _partitions(table: Table, rows: pa.Table) -> Iterator[tuple[PartitionKey, pa.Table]]:
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


def isin(column: str, values: Iterable[str]) -> BooleanExpression:
    """A row filter: the column is one of the values."""
    # pydantic's generated signature hides the one that In really has
    return In(Reference(column), {literal(value) for value in values})  # type: ignore[call-arg,arg-type]


def between(column: str, least: str | int, greatest: str | int) -> BooleanExpression:
    """A row filter: the column is neither less nor greater."""
    term = Reference(column)
    return And(
        GreaterThanOrEqual(term=term, value=literal(least)),
        LessThanOrEqual(term=term, value=literal(greatest)),
    )
