"""External tables as other writers create them, with the delete files that those writers leave."""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.table.update import AddSnapshotUpdate, SetSnapshotRefUpdate
from pyiceberg.typedef import Record, TableVersion
from pyiceberg.types import (
    DecimalType,
    DoubleType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestamptzType,
)

from k2_ohlcv.lake.catalog import Lake

NAMESPACE = "external_tables"
#: Columns with the names of this project, in types that external tables may have.
COLUMNS: dict[str, IcebergType] = {
    "exchange": StringType(),
    "symbol": StringType(),
    "trade_id": LongType(),
    "timestamp": TimestamptzType(),
    "price": DoubleType(),
    "quantity": DoubleType(),
}
#: The columns of the trades table of this project, without `ingested_at`.
EXACT_COLUMNS: dict[str, IcebergType] = {
    "exchange": StringType(),
    "symbol": StringType(),
    "trade_id": StringType(),
    "timestamp": TimestamptzType(),
    "price": DecimalType(18, 8),
    "quantity": DecimalType(19, 8),
}
_POSITIONS = Schema(
    NestedField(2147483546, "file_path", StringType(), required=True),
    NestedField(2147483545, "pos", LongType(), required=True),
)


def create_table(
    lake: Lake,
    columns: Mapping[str, IcebergType],
    rows: Iterable[Mapping[str, Any]] = (),
    *,
    spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
    properties: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Table:
    """Create a table with optional columns, and these rows in one file per partition."""
    lake.catalog.create_namespace_if_not_exists(NAMESPACE)
    schema = Schema(
        *(NestedField(i, column, kind, required=False) for i, (column, kind) in enumerate(columns.items(), 1))
    )
    identifier = (NAMESPACE, name or f"t{uuid.uuid4().hex}")
    table = lake.catalog.create_table(
        identifier, schema, partition_spec=spec, properties=dict(properties or {})
    )
    add_rows(table, rows)
    return table


def to_arrow(table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table with the table's columns."""
    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def add_rows(table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows in one commit."""
    added = to_arrow(table, rows)
    if added.num_rows:
        table.append(added)


class _DeleteManifest(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}

    def _with_partition(self, format_version: TableVersion) -> Schema:
        """The manifest schema with equality ids as the specification types them."""
        ids = ListType(element_id=136, element=IntegerType(), element_required=True)

        def amended(field: NestedField) -> NestedField:
            kind = field.field_type
            if isinstance(kind, StructType) and field.name == "data_file":
                kind = StructType(*map(amended, kind.fields))
            return field.model_copy(update={"field_type": ids if field.name == "equality_ids" else kind})

        return Schema(*map(amended, super()._with_partition(format_version).fields))


def delete_positions(
    table: Table,
    positions: Iterable[tuple[str, int]],
    *,
    kind: FileFormat = FileFormat.PARQUET,
    partition: Record | None = None,
    has_bounds: bool = False,
) -> None:
    """Delete rows by data file and position, as Spark's merge-on-read of format version 2 does.

    With `has_bounds` the metadata has the bounds of the paths, so it names a single data file.
    """
    rows = sorted(positions)
    paths = pa.table(
        {"file_path": [path for path, _ in rows], "pos": pa.array([p for _, p in rows], pa.int64())}
    )
    _commit(
        table,
        _write(table, paths, _POSITIONS),
        DataFileContent.POSITION_DELETES,
        len(rows),
        kind,
        partition=partition,
        paths=(rows[0][0], rows[-1][0]) if has_bounds else None,
    )


def delete_equal(
    table: Table,
    columns: list[str],
    values: Iterable[tuple[Any, ...]],
    *,
    partition: Record | None = None,
    spec: PartitionSpec | None = None,
) -> None:
    """Delete every earlier row that has these values in these columns, as Flink's upserts do."""
    fields = [table.schema().find_field(column) for column in columns]
    schema = Schema(*fields)
    keys = pa.Table.from_pylist(
        [dict(zip(columns, row, strict=True)) for row in values],
        schema=schema_to_pyarrow(schema, include_field_ids=False),
    )
    _commit(
        table,
        _write(table, keys, schema),
        DataFileContent.EQUALITY_DELETES,
        keys.num_rows,
        FileFormat.PARQUET,
        [field.field_id for field in fields],
        partition,
        spec,
    )


def _write(table: Table, rows: pa.Table, schema: Schema) -> str:
    path = f"{table.location()}/data/{uuid.uuid4().hex}-deletes.parquet"
    with table.io.new_output(path).create() as stream:
        pq.write_table(rows.cast(schema_to_pyarrow(schema)), stream, store_schema=False)
    return path


def _commit(
    table: Table,
    path: str,
    content: DataFileContent,
    count: int,
    kind: FileFormat,
    equality_ids: list[int] | None = None,
    partition: Record | None = None,
    spec: PartitionSpec | None = None,
    paths: tuple[str, str] | None = None,
) -> None:
    table.refresh()
    spec = spec or table.spec()
    path_field = _POSITIONS.fields[0].field_id
    file = DataFile.from_args(
        content=content,
        file_path=path,
        file_format=kind,
        partition=partition or Record(*([None] * len(spec.fields))),
        record_count=count,
        file_size_in_bytes=len(table.io.new_input(path)),
        equality_ids=equality_ids,
        lower_bounds={path_field: paths[0].encode()} if paths else None,
        upper_bounds={path_field: paths[1].encode()} if paths else None,
    )
    before, snapshot_id = table.current_snapshot(), uuid.uuid4().int >> 66
    assert before is not None
    snapshot = Snapshot(
        snapshot_id=snapshot_id,
        parent_snapshot_id=before.snapshot_id,
        sequence_number=table.metadata.last_sequence_number + 1,
        timestamp_ms=before.timestamp_ms + 1,
        manifest_list=f"{table.location()}/metadata/snap-{snapshot_id}.avro",
        summary=Summary(Operation.DELETE),
        schema_id=table.schema().schema_id,
    )
    _write_manifests(table, spec, file, before, snapshot)
    reference = SetSnapshotRefUpdate(ref_name="main", type="branch", snapshot_id=snapshot_id)
    table._do_commit((AddSnapshotUpdate(snapshot=snapshot), reference), ())


def _write_manifests(
    table: Table, spec: PartitionSpec, file: DataFile, before: Snapshot, snapshot: Snapshot
) -> None:
    """Write the manifest of one delete file, and the manifest list of a snapshot that adds it."""
    output = table.io.new_output(f"{table.location()}/metadata/{uuid.uuid4().hex}-m0.avro")
    entry = ManifestEntry.from_args(
        status=ManifestEntryStatus.ADDED,
        snapshot_id=snapshot.snapshot_id,
        sequence_number=None,
        data_file=file,
    )
    with _DeleteManifest(spec, table.schema(), output, snapshot.snapshot_id, "null") as writer:
        writer.add_entry(entry)
    listing = table.io.new_output(snapshot.manifest_list)
    with write_manifest_list(
        2, listing, snapshot.snapshot_id, before.snapshot_id, snapshot.sequence_number, "null"
    ) as manifests:
        manifests.add_manifests([*before.manifests(table.io), writer.to_manifest_file()])
