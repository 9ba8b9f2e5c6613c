"""Copies metadata files, so that Sail reads exactly the table version of the catalog.

Sail lists a table's folder and reads the newest metadata file there. A writer that lost a commit race leaves
an orphan file in that folder. Sail therefore reads a folder with a copy of one metadata file. The metadata
has absolute locations. Sail reads them from the store of the folder, so the copy must be in the same store.
"""

import posixpath
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path

import structlog
from pyarrow.fs import FileSelector, FileSystem, FileType
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.lake.external_trades import ExternalTrades

#: Beside a table's `data` and `metadata`. Readers and the orphan clean-up do not list this folder.
FOLDER = "engine-reads"

_log = structlog.get_logger(__name__)


class PrivateMetadata:
    """The copies of a session. They are in its workspace for local tables, else in the table's store."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._session = uuid.uuid4().hex
        self._folders: dict[str, str] = {}
        self._remote: dict[str, FileIO] = {}

    def folder_of(self, table: Table) -> str:
        """The location from which Sail reads exactly the loaded version of a table."""
        folder = self._folders.get(table.metadata_location)
        if folder is None:
            folder = self._folders[table.metadata_location] = self._make_folder(table)
        return folder

    def _make_folder(self, table: Table) -> str:
        scheme, _, path = PyArrowFileIO.parse_location(table.metadata_location)
        if scheme == "file":
            return self._copy_local(table, Path(path))  # PyIceberg does not escape paths: do not unescape
        top = _top(table)
        if top is None:
            return table.location()
        try:
            return self._copy_in_store(table, top)
        except OSError as error:
            _log.warning(
                "the engine reads a table at its own location, because its folder cannot be written; "
                "an orphan metadata file there may give another version",
                table=table.name()[-1],
                error=str(error),
            )
            return table.location()

    def _copy_local(self, table: Table, source: Path) -> str:
        folder = self._workspace / f"{table.metadata.table_uuid}-{source.name.removesuffix('.metadata.json')}"
        target = folder / "metadata" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return str(folder)

    def _copy_in_store(self, table: Table, top: str) -> str:
        session_folder = f"{top}/{self._session}"
        name = posixpath.basename(table.metadata_location)
        folder = f"{session_folder}/{name.removesuffix('.metadata.json')}"
        if session_folder not in self._remote:
            self._remote[session_folder] = table.io  # before the copy, so that a partial copy is removed
            _remove_old(table.io, top)
        with table.io.new_input(table.metadata_location).open() as source:
            content = source.read()
        with table.io.new_output(f"{folder}/metadata/{name}").create(overwrite=True) as target:
            target.write(content)
        return folder

    def remove(self) -> None:
        """Remove the copies in stores. A later session removes copies that cannot be removed now."""
        for folder, io in self._remote.items():
            try:
                files, path = _open_location(io, folder)
                files.delete_dir(path)
            except OSError as error:
                _log.warning("a copy of metadata cannot be removed", folder=folder, error=str(error))
        self._remote.clear()
        self._folders.clear()


def _top(table: Table) -> str | None:
    """The folder of all copies in the table's store. None if there is no such folder.

    Nothing is written beside an external table. Its copies are in this project's warehouse, if that is in the
    same bucket.
    """
    home = table.location()
    if isinstance(table, ExternalTrades):
        home = str(table.catalog.properties.get("warehouse", ""))
        if PyArrowFileIO.parse_location(home)[:2] != PyArrowFileIO.parse_location(table.location())[:2]:
            return None
    return f"{home.rstrip('/')}/{FOLDER}"


def _remove_old(io: FileIO, top: str) -> None:
    """Remove the copies of killed sessions. A copy is read soon after it is made: old copies are unused."""
    try:
        files, path = _open_location(io, top)
        infos = files.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        now = datetime.now(UTC)
        for info in infos:
            if info.type == FileType.File and now - info.mtime > ORPHAN_AGE:
                files.delete_file(info.path)
    except OSError as error:
        _log.warning("old copies of metadata cannot be removed", folder=top, error=str(error))


def _open_location(io: FileIO, location: str) -> tuple[FileSystem, str]:
    scheme, host, path = PyArrowFileIO.parse_location(location, io.properties)
    return PyArrowFileIO(io.properties).fs_by_scheme(scheme, host), path
