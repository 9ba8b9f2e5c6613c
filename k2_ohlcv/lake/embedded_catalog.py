"""The embedded catalog: PyIceberg's SQL catalog on SQLite and a local warehouse, both under `K2_HOME`.

PyIceberg and Sail read a `file:` URI literally, except that Sail escapes a space. Nothing is therefore
escaped here, and a path with a space is not written as a URI. The rules for folder names are in `settings`,
the tables of the catalog in `catalog`.
"""

from pathlib import Path

from pyiceberg.catalog import Catalog, load_catalog
from sqlalchemy.engine import URL, make_url

from k2_ohlcv.file_lock import hold_lock
from k2_ohlcv.settings import Settings

#: Seconds that a process waits while another process commits to the catalog. A commit takes milliseconds.
BUSY_SECONDS = 60
_DATABASE = "catalog.db"


def embedded_properties(settings: Settings) -> dict[str, str]:
    """PyIceberg's properties for the catalog under `K2_HOME`, used when `k2` has no configuration."""
    database = settings.home / _DATABASE
    uri = URL.create("sqlite", database=str(database), query={"timeout": str(BUSY_SECONDS)})
    return {
        "type": "sql",
        "uri": uri.render_as_string(hide_password=False),
        "warehouse": folder_location(settings.home / "warehouse"),
    }


def folder_location(folder: Path) -> str:
    """A local folder as an Iceberg location: a `file:` URI, or the plain path where the path has a space."""
    return str(folder) if " " in str(folder) else f"file://{folder}"


def database_path(uri: str) -> str:
    """The path of the database file in a SQLite URI."""
    return make_url(uri).database or ""


def open_embedded(name: str, settings: Settings) -> Catalog:
    """Open the embedded catalog, and create it where it is missing.

    A lock lets one process at a time open the catalog. Two processes that create the catalog's own tables
    simultaneously fail.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with hold_lock(settings.home / ".catalog.lock"):
        return load_catalog(name, **embedded_properties(settings))
