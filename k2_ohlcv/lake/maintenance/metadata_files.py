"""Finds and reads the metadata files of a table in its warehouse, without the catalog's pointer.

Each commit writes one metadata file. Its log names the files of earlier versions. The choice of the file that
the catalog should name is in `newest_metadata`.
"""

import posixpath
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pyarrow.fs import FileSelector, FileType
from pyiceberg.catalog import Catalog
from pyiceberg.io import load_file_io
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata, new_table_metadata

from k2_ohlcv.lake.maintenance.table_files import Key, TableFiles
from k2_ohlcv.lake.schemas import NAMESPACE, TableSpec

#: The version at the start of a file name, such as 00012-uuid.metadata.json.
_VERSION = re.compile(r"v?(\d{1,18})\b.*\.metadata\.json$")
#: The suffix of a folder whose default name another table used already.
_SUFFIX = r"(-[0-9a-f]{8})?"
#: Parallel requests to an object store.
_THREADS = 8


@dataclass(frozen=True)
class MetadataFile:
    """One readable metadata file.

    Attributes:
        path: the file, as the catalog names it.
        key: the normalized name of the file.
        version: the number of the commit, from the file's name.
        metadata: the content.
        earlier: the files that its log names, as keys with their versions.
    """

    path: str
    key: Key
    version: int
    metadata: TableMetadata
    earlier: Mapping[Key, int]

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.key.base


@dataclass(frozen=True)
class TableFolder:
    """A table's folder in the warehouse, with its metadata files.

    Attributes:
        location: the folder.
        good: the readable metadata files.
        skipped: the other ones by name, with the reason in words.
        stored: the keys of all files in the folder.
    """

    location: str
    good: tuple[MetadataFile, ...]
    skipped: Mapping[str, str]
    stored: frozenset[Key] = field(repr=False)

    @property
    def committed(self) -> frozenset[Key]:
        """The metadata files that were certainly committed, because another file's log names them.

        A commit that loses a race leaves its metadata file. The log of that file names only its base, which
        was committed.
        """
        return frozenset(key for file in self.good for key in file.earlier)


def find_table_folders(catalog: Catalog, spec: TableSpec) -> list[str]:
    """The folders of the warehouse that may be of a table: its default one, and later ones with a suffix."""
    default = default_location(catalog, spec)
    parent, name = posixpath.split(default)
    io = PyArrowFileIO(dict(catalog.properties))
    scheme, host, path = PyArrowFileIO.parse_location(parent, io.properties)
    selector = FileSelector(path, allow_not_found=True)
    infos = io.fs_by_scheme(scheme, host).get_file_info(selector)
    names = {info.base_name for info in infos if info.type == FileType.Directory}
    return [f"{parent}/{found}" for found in sorted(names) if re.fullmatch(re.escape(name) + _SUFFIX, found)]


def default_location(catalog: Catalog, spec: TableSpec) -> str:
    """The folder that a SQL catalog chooses for a new table."""
    warehouse = str(catalog.properties.get("warehouse", "")).rstrip("/")
    return f"{warehouse}/{NAMESPACE}/{spec.name}"


def table_at(catalog: Catalog, spec: TableSpec, location: str) -> Table:
    """A stand-in for a table in a folder, to list and read files there."""
    metadata = new_table_metadata(spec.schema, spec.partition_spec, spec.sort_order, location)
    return Table(spec.identifier, metadata, location, load_file_io(catalog.properties, location), catalog)


def read_folder(catalog: Catalog, spec: TableSpec, location: str) -> TableFolder:
    """Read every metadata file of a folder. Files that cannot be read are skipped with the reason."""
    table = table_at(catalog, spec, location)
    files = TableFiles(table)
    stored = frozenset(file.key for file in files.list_files())
    keys = [key for key in sorted(stored) if key.base.endswith(".metadata.json")]
    skipped: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        read = pool.map(lambda key: _read_file(table, files, key, skipped), keys)
        good = tuple(file for file in read if file is not None)
    return TableFolder(location, good, dict(sorted(skipped.items())), stored)


def read_metadata(table: Table, path: str) -> TableMetadata:
    """Read one metadata file.

    Raises:
        OSError: the file is missing, or its store fails.
        Exception: the file is torn, or is no metadata of Iceberg. The parsers raise many types.
    """
    return FromInputFile.table_metadata(table.io.new_input(path))


def version_of(path: str) -> int | None:
    """The version in the name of a metadata file; None if it has none."""
    found = _VERSION.match(posixpath.basename(path))
    return int(found[1]) if found else None


def _read_file(table: Table, files: TableFiles, key: Key, skipped: dict[str, str]) -> MetadataFile | None:
    path = f"{table.location()}/metadata/{key.base}"
    version = version_of(path)
    if version is None:
        skipped[key.base] = "its name has no version"
        return None
    try:
        metadata = read_metadata(table, path)
    except OSError:
        raise  # an outage of the store must not make an older file the newest
    except Exception as error:  # the parsers raise many types for torn files
        skipped[key.base] = f"it is torn, or is no metadata of Iceberg ({type(error).__name__})"
        return None
    root = files.path_key(table.location())
    if files.path_key(metadata.location.rstrip("/")) != root:
        skipped[key.base] = f"it is of a table at {metadata.location}, and paths in Iceberg are absolute"
        return None
    earlier = {
        files.path_key(entry.metadata_file): version_of(entry.metadata_file) or 0
        for entry in metadata.metadata_log
    }
    return MetadataFile(path, key, version, metadata, earlier)
