"""Fixtures of the Dagster graph: settings in the environment, a lake, an instance, a landing folder."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.landing import Landing


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `K2_HOME`. No other variable that could name another place is set."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    for name in ("K2_START_DATE", "DAGSTER_HOME", "SPARK_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def lake(home: Path) -> Lake:
    """An empty lake in `K2_HOME`."""
    return lakes.open_lake(home)


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of the command line, with the project's dagster.yaml."""
    with open_instance(Settings.from_environ()) as opened:
        yield opened


@pytest.fixture
def landing(home: Path, instance: dg.DagsterInstance) -> Landing:
    """An empty landing folder, and the sensor that watches it."""
    return Landing(home, instance)
