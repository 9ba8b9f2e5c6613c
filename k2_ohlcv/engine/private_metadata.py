"""Copies of metadata files that lead Sail to the very version of a table that the catalog has.

Sail takes the newest metadata that it finds by listing a table's folder, and a writer that lost a race leaves
an orphan there. So it is given a folder that holds one file. All that the file names, it names by absolute
location, and Sail reads it from the store of the folder: the copy has to lie in the same store.
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

#: Beside a table's `data` and `metadata`, so that neither readers nor the clean-up of orphans look there.
FOLDER = "engine-reads"

_log = structlog.get_logger(__name__)


class PrivateMetadata:
    """The copies of one session: local ones in its workspace, others in the stores of their tables."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._session = uuid.uuid4().hex
        self._folders: dict[str, str] = {}
        self._remote: dict[str, FileIO] = {}

    def folder_of(self, table: Table) -> str:
        """A location that leads Sail to the table as it was loaded, and to no other version."""
        made = self._folders.get(table.metadata_location)
        if made is None:
            made = self._folders[table.metadata_location] = self._made(table)
        return made

    def _made(self, table: Table) -> str:
        scheme, _, path = PyArrowFileIO.parse_location(table.metadata_location)
        if scheme == "file":
            return self._local(table, Path(path))  # as PyIceberg wrote it: what looks escaped in it is not
        top = _top(table)
        if top is None:
            return table.location()
        try:
            return self._copied(table, top)
        except OSError as error:
            _log.warning(
                "the engine reads a table where it lies, as its folder cannot be written; an orphan metadata "
                "file there may mislead it",
                table=table.name()[-1],
                error=str(error),
            )
            return table.location()

    def _local(self, table: Table, source: Path) -> str:
        folder = self._workspace / f"{table.metadata.table_uuid}-{source.name.removesuffix('.metadata.json')}"
        target = folder / "metadata" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return str(folder)

    def _copied(self, table: Table, top: str) -> str:
        ours = f"{top}/{self._session}"
        name = posixpath.basename(table.metadata_location)
        folder = f"{ours}/{name.removesuffix('.metadata.json')}"
        if ours not in self._remote:
            self._remote[ours] = table.io  # first, so that even half a copy is removed
            _remove_old(table.io, top)
        with table.io.new_input(table.metadata_location).open() as source:
            content = source.read()
        with table.io.new_output(f"{folder}/metadata/{name}").create(overwrite=True) as target:
            target.write(content)
        return folder

    def remove(self) -> None:
        """Remove the copies that lie in stores. What cannot be removed, a later session removes."""
        for folder, io in self._remote.items():
            try:
                files, path = _opened(io, folder)
                files.delete_dir(path)
            except OSError as error:
                _log.warning("a copy of metadata stays", folder=folder, error=str(error))
        self._remote.clear()
        self._folders.clear()


def _top(table: Table) -> str | None:
    """The folder of all copies in the table's store; None where there is none of ours.

    Nothing is written beside someone else's table: its copies lie in our warehouse, if that is in its bucket.
    """
    home = table.location()
    if isinstance(table, ExternalTrades):
        home = str(table.catalog.properties.get("warehouse", ""))
        if PyArrowFileIO.parse_location(home)[:2] != PyArrowFileIO.parse_location(table.location())[:2]:
            return None
    return f"{home.rstrip('/')}/{FOLDER}"


def _remove_old(io: FileIO, top: str) -> None:
    """Remove the copies of sessions that were killed: a copy is read within moments of being made."""
    try:
        files, path = _opened(io, top)
        found = files.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        now = datetime.now(UTC)
        for info in found:
            if info.type == FileType.File and now - info.mtime > ORPHAN_AGE:
                files.delete_file(info.path)
    except OSError as error:
        _log.warning("old copies of metadata stay", folder=top, error=str(error))


def _opened(io: FileIO, location: str) -> tuple[FileSystem, str]:
    scheme, host, path = PyArrowFileIO.parse_location(location, io.properties)
    return PyArrowFileIO(io.properties).fs_by_scheme(scheme, host), path
