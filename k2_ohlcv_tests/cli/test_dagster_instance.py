"""Dagster's storage in a fresh home: several commands that start together all open it."""

import multiprocessing
from pathlib import Path

import dagster  # noqa: F401 # imported before the start, so that all processes open the home at once
import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv_tests.support import lakes


def open_together(home: Path, barrier: object, failures: "multiprocessing.Queue[str]") -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        with open_instance(lakes.lake_settings(home)) as instance:
            instance.get_runs(limit=1)
            instance.event_log_storage.get_concurrency_keys()
            list(instance.all_instigator_state())
        failures.put("")
    except Exception as error:
        failures.put(repr(error))


def test_a_dagster_home_that_is_not_there_yet_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that its owner sets keeps its own dagster.yaml, and need not be there."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "a" / "b"))
    with open_instance(lakes.lake_settings(tmp_path)) as instance:
        assert instance.get_runs(limit=1) == []
    assert not (tmp_path / "a" / "b" / "dagster.yaml").exists()


@pytest.mark.system
def test_four_processes_open_a_fresh_home_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    spawn = multiprocessing.get_context("spawn")
    for attempt in range(3):
        barrier, failures = spawn.Barrier(4), spawn.Queue()
        arguments = (tmp_path / f"home-{attempt}", barrier, failures)
        processes = [spawn.Process(target=open_together, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        assert [failures.get(timeout=120) for _ in processes] == [""] * 4
        for process in processes:
            process.join()
