"""Dagster's instance of this project: where it lives, and its dagster.yaml put there."""

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

_CONFIG_FILE = "dagster.yaml"


def _is_no_retry(record: logging.LogRecord) -> bool:
    """Leave out what Dagster says at each attempt to reach Postgres: the last error says it once."""
    return not str(record.msg).startswith("Retrying failed database")


def prepare_dagster_home(settings: Settings) -> Path:
    """The folder of Dagster's instance, made ready.

    A DAGSTER_HOME that is set is its owner's and left alone. Else it is `K2_HOME/dagster`, and gets our
    dagster.yaml; an edited one there would be overwritten, so that an upgrade's changes arrive.
    """
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if not os.environ.get("DAGSTER_HOME"):
        wanted = _shipped_config().read_bytes()
        target = home / _CONFIG_FILE
        if not target.exists() or target.read_bytes() != wanted:
            partial = home / f".{_CONFIG_FILE}.{os.getpid()}"
            partial.write_bytes(wanted)
            partial.replace(target)  # at once, for a process that reads it now
    return home


def _shipped_config() -> Path:
    package = Path(k2_ohlcv.__file__).parent
    places = [package / _CONFIG_FILE, package.parent / _CONFIG_FILE]  # in a wheel, in a checkout
    return next(place for place in places if place.exists())


@contextmanager
def open_instance(settings: Settings) -> Iterator["dg.DagsterInstance"]:
    """The instance, for runs in this process. Their output is on the terminal, not captured to files."""
    from dagster import DagsterInstance
    from dagster._core.instance.ref import InstanceRef

    home = prepare_dagster_home(settings)
    logging.getLogger().addFilter(_is_no_retry)
    nothing = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
    ref = InstanceRef.from_dir(str(home), overrides={"compute_logs": nothing})
    with _open_exclusively(home, lambda: DagsterInstance.from_ref(ref)) as instance:
        yield instance


def _open_exclusively(home: Path, opener: "Callable[[], dg.DagsterInstance]") -> "dg.DagsterInstance":
    """Open the instance while no other process of ours does.

    Dagster makes its SQLite databases when it first opens them, without a lock: of several processes in a
    fresh home all but one would fail.
    """
    home.mkdir(parents=True, exist_ok=True)
    with hold_lock(home / ".open.lock"):
        instance = opener()
        # Each of the three is made when it is first asked for.
        _ = instance.run_storage, instance.event_log_storage, instance.schedule_storage
    return instance
