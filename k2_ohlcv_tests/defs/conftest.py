"""What tests of the Dagster graph share: settings in the environment, as Dagster's runs read them."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `K2_HOME`, and nothing else set that would lead elsewhere."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    for name in ("K2_START_DATE", "DAGSTER_HOME", "SPARK_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def instance(lake: Lake) -> Iterator[dg.DagsterInstance]:
    """Dagster's storage beside the lake."""
    with open_instance(Settings.from_environ()) as made:
        yield made
