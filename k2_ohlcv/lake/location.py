"""A table's own location: what lies in it, how large that is, and removing files of it. Nothing outside it.

Which files may go is decided in `sweep`.
"""

import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

#: Where Iceberg's writers put files, under a table's location. Whatever else lies there is not ours to judge.
_FOLDERS = ("data", "metadata")
#: Requests to an object store that are under way at once.
_THREADS = 8

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Removed:
    """Files that were removed."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(self.files + other.files, self.bytes + other.bytes)


@dataclass(frozen=True)
class Found:
    """A file that lies in a location."""

    path: str
    size: int
    written: datetime


class Location:
    """Where a table's files are. Paths are compared as `key`, whatever scheme they are written with."""

    def __init__(self, table: Table) -> None:
        self.name = ".".join(table.name())
        self._io = PyArrowFileIO(table.io.properties)
        self._scheme, self._host, root = PyArrowFileIO.parse_location(table.location(), table.io.properties)
        self._root = posixpath.normpath(root)

    @property
    def _files(self) -> FileSystem:
        return self._io.fs_by_scheme(self._scheme, self._host)

    def key(self, path: str) -> str:
        """What two ways to write the path of one file have in common."""
        return posixpath.normpath(PyArrowFileIO.parse_location(path, self._io.properties)[2])

    def owns(self, path: str) -> bool:
        """Whether a file lies inside, links followed."""
        if not self._inside(self._root, self.key(path)):
            return False
        if self._scheme != "file":
            return True
        folder, name = posixpath.split(self.key(path))
        real = posixpath.join(os.path.realpath(folder), name)
        return self._inside(os.path.realpath(self._root), real) and not Path(real).is_symlink()

    @staticmethod
    def _inside(root: str, path: str) -> bool:
        return len(root) > 1 and path.startswith(root + "/")

    def found(self) -> list[Found]:
        """The files that lie in the folders that Iceberg writes to; hidden ones are left alone."""
        infos: list[FileInfo] = []
        for folder in _FOLDERS:
            selector = FileSelector(posixpath.join(self._root, folder), allow_not_found=True, recursive=True)
            infos += self._files.get_file_info(selector)
        return [
            Found(info.path, info.size, info.mtime)
            for info in infos
            if info.type == FileType.File and not info.base_name.startswith((".", "_"))
        ]

    def size(self, path: str) -> int:
        """A file's size in bytes; 0 where it is not there."""
        (info,) = self._files.get_file_info([self.key(path)])
        return int(info.size or 0)

    def write(self, path: str, content: bytes) -> None:
        """Write a small file."""
        with self._io.new_output(path).create(overwrite=True) as stream:
            stream.write(content)

    def read(self, path: str) -> bytes:
        """Read a small file."""
        with self._files.open_input_stream(self.key(path)) as stream:
            return bytes(stream.read())

    def remove(self, paths: Iterable[str]) -> Removed:
        """Remove files, those that lie outside or are not there excepted, and folders that this empties."""
        ours = sorted({self.key(path) for path in paths if self.owns(path)})
        with ThreadPoolExecutor(_THREADS) as pool:
            gone = [one for one in pool.map(self._remove, ours) if one is not None]
        if self._scheme == "file":
            self._prune({posixpath.dirname(path) for path in ours})
        return Removed(len(gone), sum(gone))

    def _remove(self, key: str) -> int | None:
        size = self.size(key)
        try:
            self._files.delete_file(key)
        except FileNotFoundError:
            return None
        except OSError as error:
            # Left for the next run: what is there is merely of no use.
            _log.warning("a file could not be removed", table=self.name, path=key, error=str(error))
            return None
        return size

    def _prune(self, folders: set[str]) -> None:
        tops = {posixpath.join(self._root, folder) for folder in _FOLDERS}
        for deepest in sorted(folders, reverse=True):
            folder = deepest
            while folder not in tops and self._inside(self._root, folder):
                try:
                    Path(folder).rmdir()
                except OSError:
                    break  # not empty, or gone already
                folder = posixpath.dirname(folder)
