"""Writes rows as data files of their partitions. No snapshot has the files until a commit adds them."""

import uuid
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io.pyarrow import write_file
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.table import Table, WriteTask

#: Maximum rows of a data file of trades. A busy day fills two, which are written in parallel. More files cost
#: reads.
FILE_ROWS = 1_250_000


def write_files(table: Table, rows: pa.Table) -> Iterator[DataFile]:
    """Write trades, sorted by the partition column, as files of at most `FILE_ROWS` rows."""
    parts = []
    for key, part in _split_by_partition(table, rows):
        file_count = -(-part.num_rows // FILE_ROWS)
        size = -(-part.num_rows // file_count)
        parts += [(key, part.slice(position, size)) for position in range(0, part.num_rows, size)]
    return write_parts(table, parts, uuid.uuid4())


def write_parts(
    table: Table, parts: Iterable[tuple[PartitionKey, pa.Table]], write_uuid: uuid.UUID
) -> Iterator[DataFile]:
    """Write each part as one file of its partition, in parallel."""
    schema = table.schema()
    tasks = (
        WriteTask(
            write_uuid=write_uuid,
            task_id=number,
            schema=schema,
            record_batches=part.cast(schema.as_arrow()).combine_chunks().to_batches(),
            partition_key=key,
        )
        for number, (key, part) in enumerate(parts)
    )
    return write_file(io=table.io, table_metadata=table.metadata, tasks=tasks)


def partition_key(table: Table, rows: pa.Table) -> PartitionKey:
    """The partition of rows that all lie in one partition."""
    ((key, _),) = _split_by_partition(table, rows.slice(0, 1))
    return key


def _split_by_partition(table: Table, rows: pa.Table) -> Iterator[tuple[PartitionKey, pa.Table]]:
    """Split rows that are sorted by the partition column."""
    field = table.spec().fields[0]
    source = table.schema().find_field(field.source_id)
    values = field.transform.pyarrow_transform(source.field_type)(rows[source.name].combine_chunks())
    runs = pc.run_end_encode(values)
    for (start, end), value in zip(
        pairwise([0, *runs.run_ends.to_pylist()]), runs.values.to_pylist(), strict=True
    ):
        key = PartitionKey([PartitionFieldValue(field, value)], table.spec(), table.schema())
        yield key, rows.slice(start, end - start)
