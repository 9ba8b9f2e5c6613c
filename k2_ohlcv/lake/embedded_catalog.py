"""The embedded catalog: PyIceberg's SQL catalog on SQLite, and a local warehouse, both under `K2_HOME`.

PyIceberg and Sail take each character of a `file:` URI as it stands, except that Sail escapes a space. So
nothing is escaped here, and a path with a space is no URI. `settings` says which names a folder may have, and
`catalog` what is in the catalog.
"""

from pathlib import Path

from pyiceberg.catalog import Catalog, load_catalog
from sqlalchemy.engine import URL, make_url

from k2_ohlcv.file_lock import hold_lock
from k2_ohlcv.settings import Settings

#: A process waits so many seconds for another one's commit to the catalog. Each takes some milliseconds.
BUSY_SECONDS = 60
_DATABASE = "catalog.db"


def embedded_properties(settings: Settings) -> dict[str, str]:
    """PyIceberg's properties of the catalog under `K2_HOME`, used when nothing is configured for `k2`."""
    database = settings.home / _DATABASE
    uri = URL.create("sqlite", database=str(database), query={"timeout": str(BUSY_SECONDS)})
    return {
        "type": "sql",
        "uri": uri.render_as_string(hide_password=False),
        "warehouse": folder_location(settings.home / "warehouse"),
    }


def folder_location(folder: Path) -> str:
    """A local folder as a location for Iceberg: a `file:` URI, or the plain path where it has a space."""
    return str(folder) if " " in str(folder) else f"file://{folder}"


def database_path(uri: str) -> str:
    """The path of the database that a SQLite URI names."""
    return make_url(uri).database or ""


def open_embedded(name: str, settings: Settings) -> Catalog:
    """The embedded catalog, made if it is not there.

    The first processes in a fresh home come one after the other: two that make the catalog's tables at once
    break each other.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with hold_lock(settings.home / ".catalog.lock"):
        return load_catalog(name, **embedded_properties(settings))
