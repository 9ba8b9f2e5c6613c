"""The catalog's pointer to the current metadata file of each table: reading, registering and moving it.

Only a SQL catalog is changed here. A catalog server keeps its pointers in its own database. Which file the
pointer should name is decided in `maintenance.newest_metadata`.
"""

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import TableAlreadyExistsError
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from k2_ohlcv.domain.errors import CommitConflictError, UsageError
from k2_ohlcv.lake.schemas import NAMESPACE


def sql_catalog(catalog: Catalog) -> SqlCatalog:
    """The catalog as a SQL catalog with a warehouse.

    Raises:
        UsageError: it is another kind of catalog, or has no warehouse to search.
    """
    if not isinstance(catalog, SqlCatalog):
        raise UsageError(
            f"the catalog {catalog.name} is not a SQL catalog: a catalog server keeps its pointers in its "
            "own database. Restore that from its backup, or register the tables with the server's own tools"
        )
    if not catalog.properties.get("warehouse"):
        raise UsageError(
            f"the catalog {catalog.name} has no warehouse to search: set PYICEBERG_CATALOG__K2__WAREHOUSE"
        )
    return catalog


def read_pointers(catalog: SqlCatalog) -> dict[str, str]:
    """The metadata file of each table in the project's namespace. The files are not opened."""
    rows = select(IcebergTables.table_name, IcebergTables.metadata_location).where(
        IcebergTables.catalog_name == catalog.name, IcebergTables.table_namespace == NAMESPACE
    )
    with Session(catalog.engine) as session:
        return {name: path for name, path in session.execute(rows) if path}


def register_table(catalog: SqlCatalog, name: str, path: str) -> None:
    """Add a table to the catalog.

    Raises:
        CommitConflictError: another process created the table meanwhile.
    """
    catalog.create_namespace_if_not_exists(NAMESPACE)
    try:
        catalog.register_table((NAMESPACE, name), path)
    except TableAlreadyExistsError:
        raise _conflict(name) from None


def move_pointer(catalog: SqlCatalog, name: str, before: str, path: str) -> None:
    """Move the pointer of a table from one metadata file to another, as a commit does.

    Raises:
        CommitConflictError: the pointer does not name `before` any more.
    """
    statement = (
        update(IcebergTables)
        .where(
            IcebergTables.catalog_name == catalog.name,
            IcebergTables.table_namespace == NAMESPACE,
            IcebergTables.table_name == name,
            IcebergTables.metadata_location == before,
        )
        .values(metadata_location=path, previous_metadata_location=before)
        .returning(IcebergTables.table_name)
    )
    with Session(catalog.engine) as session:
        if session.execute(statement).first() is None:
            raise _conflict(name)
        session.commit()


def _conflict(name: str) -> CommitConflictError:
    return CommitConflictError(
        f"another process wrote {name} to the catalog meanwhile. Stop all writers, and run this again"
    )
