"""Dagster's storage in a new home, also when several commands open the home together."""

from pathlib import Path

import dagster  # noqa: F401 # imported first, so that all processes open the home at the same moment
import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.processes import COUNT, call_together


def use_instance(home: Path) -> None:
    with open_instance(lakes.lake_settings(home)) as instance:
        instance.get_runs(limit=1)
        instance.event_log_storage.get_concurrency_keys()
        list(instance.all_instigator_state())


def test_a_missing_dagster_home_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that `DAGSTER_HOME` names gets no dagster.yaml of the project."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "a" / "b"))
    with open_instance(lakes.lake_settings(tmp_path)) as instance:
        assert instance.get_runs(limit=1) == []
    assert not (tmp_path / "a" / "b" / "dagster.yaml").exists()


@pytest.mark.system
def test_four_processes_open_a_new_home_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    for attempt in range(3):
        assert call_together(use_instance, tmp_path / f"home-{attempt}") == [None] * COUNT
