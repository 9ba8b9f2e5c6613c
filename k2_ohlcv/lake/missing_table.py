"""Stands in for a table that the catalog does not have. Reading finds an empty table and creates nothing.

A table may be missing briefly while its owner renames it. An empty table must not replace it. Creating
tables is in `catalog`.
"""

from pyiceberg.catalog import Catalog, MetastoreCatalog
from pyiceberg.io import load_file_io
from pyiceberg.table import Table
from pyiceberg.table.metadata import new_table_metadata

from k2_ohlcv.domain.errors import MissingTableError
from k2_ohlcv.lake.maintenance.table_files import TableFiles
from k2_ohlcv.lake.schemas import NAMESPACE, TableSpec


class MissingTable(Table):
    """An empty table of a spec, in no catalog. Commits are refused."""

    def __init__(self, spec: TableSpec, catalog: Catalog) -> None:
        metadata = new_table_metadata(
            spec.schema, spec.partition_spec, spec.sort_order, "", dict(spec.properties)
        )
        super().__init__(spec.identifier, metadata, "", load_file_io({}), catalog)

    def _do_commit(self, *_: object, **__: object) -> None:
        raise MissingTableError(f"there is no table {'.'.join(self.name())} to commit to")


def choose_free_location(catalog: Catalog, spec: TableSpec) -> str | None:
    """Choose a location for a new table whose folder no other table uses; None for the catalog's default.

    A renamed table keeps its folder. A new table of the old name would share that folder. The clean-up of
    orphan files would then remove the files of the renamed table.
    """
    if not isinstance(catalog, MetastoreCatalog):
        return None  # a catalog server chooses the location
    location = catalog._resolve_table_location(None, NAMESPACE, spec.name)
    metadata = new_table_metadata(spec.schema, spec.partition_spec, spec.sort_order, location)
    io = load_file_io(catalog.properties, location)
    if not TableFiles(Table(spec.identifier, metadata, location, io, catalog)).list_files():
        return None
    return f"{location}-{metadata.table_uuid.hex[:8]}"
