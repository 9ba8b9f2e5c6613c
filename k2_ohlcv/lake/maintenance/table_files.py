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
_TABLE_FOLDERS = ("data", "metadata")
#: Requests to an object store that are under way at once.
_THREADS = 8
#: The schemes of one and the same store.
_S3 = {"s3", "s3a", "s3n"}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RemovedFiles:
    """Files that were removed, their bytes, and the files that the store refused to remove."""

    files: int = 0
    bytes: int = 0
    refused: int = 0

    def __add__(self, other: "RemovedFiles") -> "RemovedFiles":
        return RemovedFiles(self.files + other.files, self.bytes + other.bytes, self.refused + other.refused)


@dataclass(frozen=True, order=True)
class Key:
    """A file's name in its store: what two ways to write the path of one file have in common.

    A type of its own, as a key that is read as a path once more names another file.

    Attributes:
        store: the kind of store, `file` or `s3`.
        name: as the store's client takes it, on S3 with the bucket in front.
    """

    store: str
    name: str

    @property
    def base(self) -> str:
        """The last part of the name."""
        return posixpath.basename(self.name)

    @property
    def is_plain(self) -> bool:
        """Whether no part of an object's name is empty or dots, which clients read in different ways."""
        return not {"", ".", ".."} & set(self.name.split("/"))


@dataclass(frozen=True)
class StoredFile:
    """A file that lies in a location."""

    key: Key
    size: int
    modified_at: datetime


class TableFiles:
    """Where a table's files are. Only `path_key` takes paths; all else takes keys."""

    def __init__(self, table: Table) -> None:
        self.name = ".".join(table.name())
        self._io = PyArrowFileIO(table.io.properties)
        self._scheme, self._host, _ = PyArrowFileIO.parse_location(table.location(), table.io.properties)
        root = self.path_key(table.location())
        self._root = Key(root.store, root.name.rstrip("/"))

    @property
    def _files(self) -> FileSystem:
        return self._io.fs_by_scheme(self._scheme, self._host)

    @property
    def _is_local(self) -> bool:
        return self._root.store == "file"

    def path_key(self, path: str) -> Key:
        """The key of the file that a path names, whatever scheme it is written with."""
        scheme, _, name = PyArrowFileIO.parse_location(path, self._io.properties)
        store = "s3" if scheme in _S3 else scheme
        return Key(store, posixpath.normpath(name) if store == "file" else name)

    def is_inside(self, key: Key) -> bool:
        """Whether a file lies inside, links followed."""
        if key.store != self._root.store or not self._inside(self._root.name, key.name):
            return False
        if not self._is_local:
            return key.is_plain
        folder, name = posixpath.split(key.name)
        real = posixpath.join(os.path.realpath(folder), name)
        return self._inside(os.path.realpath(self._root.name), real) and not Path(real).is_symlink()

    @staticmethod
    def _inside(root: str, name: str) -> bool:
        return len(root) > 1 and name.startswith(root + "/")

    def list_files(self) -> list[StoredFile]:
        """The files that lie in the folders that Iceberg writes to; hidden ones are left alone."""
        infos: list[FileInfo] = []
        for folder in _TABLE_FOLDERS:
            selector = FileSelector(f"{self._root.name}/{folder}", allow_not_found=True, recursive=True)
            infos += self._files.get_file_info(selector)
        return [
            StoredFile(Key(self._root.store, info.path), info.size, info.mtime)
            for info in infos
            if info.type == FileType.File and not info.base_name.startswith((".", "_"))
        ]

    def size(self, key: Key) -> int:
        """A file's size in bytes; 0 where it is not there."""
        (info,) = self._files.get_file_info([key.name])
        return int(info.size or 0)

    def usage(self) -> int:
        """The bytes of all files that `list_files` gives."""
        return sum(file.size for file in self.list_files())

    def remove_files(self, keys: Iterable[Key]) -> RemovedFiles:
        """Remove files, those that lie outside or are not there excepted, and folders that this empties.

        A file that the store refuses to remove holds up no other. It is left for the next run.
        """
        ours = sorted({key for key in keys if self.is_inside(key)})
        errors: list[str] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            removed = sum(pool.map(lambda key: self._remove_file(key, errors), ours), RemovedFiles())
        if errors:
            _log.warning("files could not be removed", table=self.name, files=len(errors), error=errors[0])
        if self._is_local:
            self._remove_empty_folders({posixpath.dirname(key.name) for key in ours})
        return removed

    def _remove_file(self, key: Key, errors: list[str]) -> RemovedFiles:
        try:
            size = self.size(key)
            self._files.delete_file(key.name)
        except FileNotFoundError:
            return RemovedFiles()
        except OSError as error:
            errors.append(str(error))
            return RemovedFiles(refused=1)
        return RemovedFiles(1, size)

    def _remove_empty_folders(self, folders: set[str]) -> None:
        tops = {posixpath.join(self._root.name, folder) for folder in _TABLE_FOLDERS}
        for deepest in sorted(folders, reverse=True):
            folder = deepest
            while folder not in tops and self._inside(self._root.name, folder):
                try:
                    Path(folder).rmdir()
                except OSError:
                    break  # not empty, or gone already
                folder = posixpath.dirname(folder)
