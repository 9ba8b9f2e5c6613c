"""Lists, measures and removes the files in a table's own location. Files outside the location are ignored.

The choice of files to remove is in `orphan_files`.
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

#: The folders of Iceberg's files in a table's location. Other files in the location are ignored.
_TABLE_FOLDERS = ("data", "metadata")
#: The number of parallel requests to an object store.
_THREADS = 8
#: The URI schemes of the same store.
_S3 = {"s3", "s3a", "s3n"}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RemovedFiles:
    """The number and bytes of removed files, and the number of files that the store refused to remove."""

    files: int = 0
    bytes: int = 0
    refused: int = 0

    def __add__(self, other: "RemovedFiles") -> "RemovedFiles":
        return RemovedFiles(self.files + other.files, self.bytes + other.bytes, self.refused + other.refused)


@dataclass(frozen=True, order=True)
class Key:
    """The normalized name of a file in its store. Different paths of one file have the same key.

    The key has a type of its own, because a key that is parsed as a path names another file.

    Attributes:
        store: the kind of store, `file` or `s3`.
        name: the name for the store's client, on S3 with the bucket first.
    """

    store: str
    name: str

    @property
    def base(self) -> str:
        """The last part of the name."""
        return posixpath.basename(self.name)

    @property
    def is_plain(self) -> bool:
        """Whether no part of the name is empty or dots. Clients treat such parts in different ways."""
        return not {"", ".", ".."} & set(self.name.split("/"))


@dataclass(frozen=True)
class StoredFile:
    """A file in a table's location."""

    key: Key
    size: int
    modified_at: datetime


class TableFiles:
    """The files in a table's location. Only `path_key` takes a path; all other methods take keys."""

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
        """The key of a path. The schemes of one store give the same key."""
        scheme, _, name = PyArrowFileIO.parse_location(path, self._io.properties)
        store = "s3" if scheme in _S3 else scheme
        return Key(store, posixpath.normpath(name) if store == "file" else name)

    def is_inside(self, key: Key) -> bool:
        """Whether a file lies in the table's location after symbolic links are followed."""
        if key.store != self._root.store or not self._is_below(self._root.name, key.name):
            return False
        if not self._is_local:
            return key.is_plain
        folder, name = posixpath.split(key.name)
        real = posixpath.join(os.path.realpath(folder), name)
        return self._is_below(os.path.realpath(self._root.name), real) and not Path(real).is_symlink()

    @staticmethod
    def _is_below(root: str, name: str) -> bool:
        return len(root) > 1 and name.startswith(root + "/")

    def list_files(self) -> list[StoredFile]:
        """List the files in Iceberg's folders, without hidden files."""
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
        """A file's size in bytes; 0 where the file is missing."""
        (info,) = self._files.get_file_info([key.name])
        return int(info.size or 0)

    def usage(self) -> int:
        """The bytes of all files of `list_files`."""
        return sum(file.size for file in self.list_files())

    def remove_files(self, keys: Iterable[Key]) -> RemovedFiles:
        """Remove files in the table's location, and local folders that become empty.

        Missing files and files outside the location are skipped. A file that the store refuses to remove
        stays until the next run.
        """
        own_keys = sorted({key for key in keys if self.is_inside(key)})
        errors: list[str] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            removed = sum(pool.map(lambda key: self._remove_file(key, errors), own_keys), RemovedFiles())
        if errors:
            _log.warning("files could not be removed", table=self.name, files=len(errors), error=errors[0])
        if self._is_local:
            self._remove_empty_folders({posixpath.dirname(key.name) for key in own_keys})
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
        top_folders = {posixpath.join(self._root.name, folder) for folder in _TABLE_FOLDERS}
        for deepest in sorted(folders, reverse=True):
            folder = deepest
            while folder not in top_folders and self._is_below(self._root.name, folder):
                try:
                    Path(folder).rmdir()
                except OSError:
                    break  # not empty, or removed already
                folder = posixpath.dirname(folder)
