"""Refuses trades tables with equality deletes, which PyIceberg cannot read.

PyIceberg 0.12 plans no scan over an equality delete: it raises a bare ValueError. Position deletes are read.
"""

from pyiceberg.manifest import DataFileContent
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import ContractError
from k2_ohlcv.lake.files import delete_files

_SHOWN = 3


def refuse_equality_deletes(table: Table) -> None:
    """Look at the delete files of a table's current snapshot, before anything is read or written.

    Raises:
        ContractError: there are equality deletes; the message names them, and what to do.
    """
    snapshot = table.metadata.current_snapshot_id
    if snapshot is None:
        return
    found = [
        file.file_path
        for file in delete_files(table, snapshot)
        if file.content == DataFileContent.EQUALITY_DELETES
    ]
    if found:
        name = ".".join(table.name())
        shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
        raise ContractError(
            f"table {name} has {len(found)} equality delete files of another engine, which PyIceberg cannot "
            f"read ({shown}). Nothing was changed. Have that engine rewrite the data files without them "
            f"(in Spark: CALL k2.system.rewrite_data_files(table => '{name}', options => "
            "map('rewrite-all', 'true', 'remove-dangling-deletes', 'true'))), then run this again"
        )
