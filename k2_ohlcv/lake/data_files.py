"""Writes rows as data files of their partitions. No snapshot has the files until a commit adds them."""

import uuid
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

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
    sizes: list[int] = []
    runs = pc.run_end_encode(_partition_values(table, rows))
    for start, end in pairwise([0, *runs.run_ends.to_pylist()]):
        file_count = -(-(end - start) // FILE_ROWS)
        size = -(-(end - start) // file_count)
        sizes += [min(size, end - position) for position in range(start, end, size)]
    return write_parts(table, rows, sizes, uuid.uuid4())


def write_parts(
    table: Table, rows: pa.Table, sizes: Sequence[int], write_uuid: uuid.UUID
) -> Iterator[DataFile]:
    """Write rows as files, in parallel.

    Args:
        table: the table.
        rows: the rows, in the order of the files. The rows of a file are of one partition.
        sizes: the number of rows of each file.
        write_uuid: a part of the names of the files.
    """
    schema, spec, field = table.schema(), table.spec(), table.spec().fields[0]
    ends = list(accumulate(sizes))
    starts = [end - size for end, size in zip(ends, sizes, strict=True)]
    rows = rows.cast(schema.as_arrow()).combine_chunks()
    values = _partition_values(table, rows).take(pa.array(starts, pa.int64())).to_pylist()
    tasks = (
        WriteTask(
            write_uuid=write_uuid,
            task_id=number,
            schema=schema,
            record_batches=rows.slice(start, size).to_batches(),
            partition_key=PartitionKey([PartitionFieldValue(field, value)], spec, schema),
        )
        for number, (start, size, value) in enumerate(zip(starts, sizes, values, strict=True))
    )
    return write_file(io=table.io, table_metadata=table.metadata, tasks=tasks)


def _partition_values(table: Table, rows: pa.Table) -> pa.Array:
    """The partition value of each row."""
    field = table.spec().fields[0]
    source = table.schema().find_field(field.source_id)
    column = rows.cast(table.schema().as_arrow())[source.name].combine_chunks()
    values: pa.Array = field.transform.pyarrow_transform(source.field_type)(column)
    return values
