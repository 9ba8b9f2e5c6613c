"""Tables that the catalog does not have: reading one finds it empty, and creates nothing.

A table that is missing for a moment, while its owner renames it, must not be replaced by an empty one.
"""

from pyiceberg.catalog import Catalog, MetastoreCatalog
from pyiceberg.io import load_file_io
from pyiceberg.table import Table
from pyiceberg.table.metadata import new_table_metadata

from k2_ohlcv.domain.errors import MissingTableError
from k2_ohlcv.lake.maintenance.table_files import TableFiles
from k2_ohlcv.lake.schemas import NAMESPACE, TableSpec


class MissingTable(Table):
    """An empty table of a contract that is in no catalog. Commits to it are refused."""

    def __init__(self, contract: TableSpec, catalog: Catalog) -> None:
        metadata = new_table_metadata(
            contract.schema, contract.partition_spec, contract.sort_order, "", dict(contract.properties)
        )
        super().__init__(contract.identifier, metadata, "", load_file_io({}), catalog)

    def _do_commit(self, *_: object, **__: object) -> None:
        raise MissingTableError(f"there is no table {'.'.join(self.name())} to commit to")


def choose_free_location(catalog: Catalog, contract: TableSpec) -> str | None:
    """Where to create a table so that it shares no folder with another; None for the catalog's own choice.

    A renamed table keeps its folder. A new one of the old name would lie in the same, and the clean-up of
    files that the new one does not know would remove those of the other.
    """
    if not isinstance(catalog, MetastoreCatalog):
        return None  # a catalog server chooses by itself
    wanted = catalog._resolve_table_location(None, NAMESPACE, contract.name)
    metadata = new_table_metadata(contract.schema, contract.partition_spec, contract.sort_order, wanted)
    io = load_file_io(catalog.properties, wanted)
    if not TableFiles(Table(contract.identifier, metadata, wanted, io, catalog)).list_files():
        return None
    return f"{wanted}-{metadata.table_uuid.hex[:8]}"
