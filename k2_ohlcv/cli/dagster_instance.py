"""Dagster's instance of this project: its folder, and the dagster.yaml in it."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import k2_ohlcv
from k2_ohlcv.file_lock import hold_lock
from k2_ohlcv.settings import Settings

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.instance.ref import InstanceRef

_CONFIG_FILE = "dagster.yaml"
_BATCH_VARIABLE = "DAGSTER_EVENT_BATCH_SIZE"
#: Events of one transaction. It takes less than a second, in which other processes wait.
_BATCH_EVENTS = 200


def _is_no_retry(record: logging.LogRecord) -> bool:
    """Whether a record is logged. Dagster logs each attempt to reach Postgres, and the last one suffices."""
    return not str(record.msg).startswith("Retrying failed database")


def prepare_dagster_home(settings: Settings) -> Path:
    """Prepare the folder of Dagster's instance, and return it.

    If DAGSTER_HOME is set, its dagster.yaml is the user's and is not changed. Otherwise the folder is
    `K2_HOME/dagster`, and this package's dagster.yaml is written there, so that upgrades change it.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if not os.environ.get("DAGSTER_HOME"):
        config = _shipped_config().read_bytes()
        target = home / _CONFIG_FILE
        if not target.exists() or target.read_bytes() != config:
            partial = home / f".{_CONFIG_FILE}.{os.getpid()}"
            partial.write_bytes(config)
            partial.replace(target)  # atomic, as another process may be reading the file
    return home


def _shipped_config() -> Path:
    package = Path(k2_ohlcv.__file__).parent
    places = [package / _CONFIG_FILE, package.parent / _CONFIG_FILE]  # in a wheel, in a checkout
    return next(place for place in places if place.exists())


@contextmanager
def open_instance(settings: Settings) -> Iterator["dg.DagsterInstance"]:
    """The instance, for runs in this process. Their output goes to the terminal, not to files."""
    from dagster import DagsterInstance
    from dagster._core.instance.ref import InstanceRef

    home = prepare_dagster_home(settings)
    logging.getLogger().addFilter(_is_no_retry)
    no_capture = {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
    ref = InstanceRef.from_dir(str(home), overrides={"compute_logs": no_capture})
    with (
        _batched_events(),
        _open_exclusively(home, lambda: DagsterInstance.from_ref(_with_open_databases(ref))) as instance,
    ):
        yield instance


def _with_open_databases(ref: "InstanceRef") -> "InstanceRef":
    """The same instance. Databases of Dagster's own SQLite storage stay open while the command runs."""
    storage = ref.storage_data
    if storage is None or storage.class_name != "DagsterSqliteStorage":
        return ref
    return ref._replace(
        storage_data=storage._replace(
            module_name="k2_ohlcv.cli.dagster_storage", class_name="OpenSqliteStorage"
        )
    )


@contextmanager
def _batched_events() -> Iterator[None]:
    """Let Dagster store events that it emits together in one batch, unless the user chose a size."""
    if _BATCH_VARIABLE in os.environ:
        yield
        return
    os.environ[_BATCH_VARIABLE] = str(_BATCH_EVENTS)
    try:
        yield
    finally:
        del os.environ[_BATCH_VARIABLE]


def _open_exclusively(home: Path, opener: "Callable[[], dg.DagsterInstance]") -> "dg.DagsterInstance":
    """Open the instance while no other process of this project opens it.

    Dagster creates its SQLite databases without a lock. Of several processes in a new home all but one would
    fail.
    """
    home.mkdir(parents=True, exist_ok=True)
    with hold_lock(home / ".open.lock"):
        instance = opener()
        # Dagster creates each of the three databases on first access.
        _ = instance.run_storage, instance.event_log_storage, instance.schedule_storage
    return instance
