"""Runs of other containers and machines: a live one is never taken for dead, and a killed one is found."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.defs import dead_runs, run_liveness
from k2_ohlcv.defs.run_liveness import (
    BOOT_TAG,
    HEARTBEAT_SECONDS,
    HEARTBEAT_TAG,
    SILENT_SECONDS,
    HeartbeatWatch,
    is_lock_held,
    lock_file,
)
from k2_ohlcv.settings import Settings

ELSEWHERE = {
    dead_runs.HOST_TAG: "elsewhere pid:[1]",
    dead_runs.PID_TAG: "1",
    dead_runs.PROCESS_STARTED_TAG: "1.00",
}

#: A run that works until it is killed.
HOLDER = """
import time
import dagster as dg
from k2_ohlcv.defs.resources import LakeResource

@dg.asset(pool="table")
def holder(lake: LakeResource):
    print("holding", flush=True)
    time.sleep(600)

with dg.DagsterInstance.get() as instance:
    definitions = dg.Definitions([holder], resources={"lake": LakeResource()})
    definitions.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
"""


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(Settings.from_environ()) as made:
        yield made


@pytest.fixture
def run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """A run that was started on another machine."""
    made = instance.create_run_for_job(dg.job(name="j")(lambda: None), tags=ELSEWHERE)
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", "j"), made.run_id)
    return made


def found(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    now = instance.get_run_by_id(run.run_id)
    assert now is not None
    return now


@contextmanager
def holding(instance: dg.DagsterInstance, prefix: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, behind a command that puts it elsewhere."""
    environment = {**os.environ, "DAGSTER_HOME": str(instance.root_directory)}
    script = [*prefix, sys.executable, "-W", "ignore", "-c", HOLDER]
    with subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
        process.kill()


@pytest.mark.system
@pytest.mark.parametrize("uts", [[], ["--uts"]], ids=["same host name", "other host name"])
def test_the_run_of_a_killed_container_is_found_at_once(instance: dg.DagsterInstance, uts: list[str]) -> None:
    """In a process namespace of its own its pid says nothing: its lock does, across the one disk."""
    container = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", *uts]
    if shutil.which("unshare") is None or subprocess.run([*container, "true"], check=False).returncode:
        pytest.skip("no process namespace can be made here")
    other = ["sh", "-c", 'hostname other-container; exec "$0" "$@"'] if uts else []
    with holding(instance, [*container, *other]) as process:
        (run,) = instance.get_runs()
        assert not dead_runs.is_process_gone(run.tags)
        assert is_lock_held(instance, run) is True
        assert dead_runs.mark_dead_runs(instance) == [], "a run at work is left alone"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 20
    while not (ended := dead_runs.mark_dead_runs(instance)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert ended == [run.run_id]
    assert found(instance, run).status == dg.DagsterRunStatus.FAILURE
    assert instance.event_log_storage.get_concurrency_run_ids() == set()
    assert list(lock_file(instance, "").parent.iterdir()) == []


def test_a_run_gives_signs_while_it_works_and_takes_them_away(
    instance: dg.DagsterInstance, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_liveness, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(run_liveness, "_timestamp", iter(str(i) for i in range(10**6)).__next__)
    with run_liveness.show_liveness(instance, run.run_id, {}):
        assert is_lock_held(instance, found(instance, run)) is True
        deadline = time.monotonic() + 20
        while int(found(instance, run).tags[HEARTBEAT_TAG]) < 3:
            assert time.monotonic() < deadline
        assert not dead_runs.is_run_dead(instance, found(instance, run), {run.run_id})
    assert is_lock_held(instance, found(instance, run)) is None, "no file says nothing"
    assert not dead_runs.is_run_dead(instance, found(instance, run))


def test_a_storage_that_is_away_does_not_end_the_run(
    instance: dg.DagsterInstance, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_liveness, "HEARTBEAT_SECONDS", 0.02)
    with run_liveness.show_liveness(instance, run.run_id, {}):
        failures: list[int] = []

        def fail(*_: object) -> None:
            failures.append(1)
            raise OSError("away")

        with monkeypatch.context() as away:
            away.setattr(instance, "add_run_tags", fail)
            while len(failures) < 3:
                time.sleep(0.02)
        before = found(instance, run).tags[HEARTBEAT_TAG]
        monkeypatch.setattr(run_liveness, "_timestamp", lambda: "later")
        while found(instance, run).tags[HEARTBEAT_TAG] == before:
            time.sleep(0.02)


@pytest.mark.parametrize("kernel", ["another boot", None], ids=["another machine", "no lock was had"])
def test_another_machines_lock_says_nothing(
    instance: dg.DagsterInstance, run: dg.DagsterRun, kernel: str | None
) -> None:
    """A network disk may let everyone have it: only the kernel that holds a lock knows."""
    lock_file(instance, run.run_id).parent.mkdir()
    lock_file(instance, run.run_id).touch()
    instance.add_run_tags(run.run_id, {BOOT_TAG: kernel} if kernel else {"a": "b"})
    assert is_lock_held(instance, found(instance, run)) is None
    assert dead_runs.mark_dead_runs(instance) == []
    assert lock_file(instance, run.run_id).exists()


def beating(run: dg.DagsterRun, beat: str | None) -> dg.DagsterRun:
    return run.with_tags({**run.tags, HEARTBEAT_TAG: beat}) if beat else run


def test_a_heartbeat_that_stopped_is_told_by_watching(run: dg.DagsterRun) -> None:
    """Whatever its time says: only how long the watcher saw no change counts."""
    watch, looks = HeartbeatWatch(), int(SILENT_SECONDS / 30)
    for look in range(looks):
        assert watch.find_silent([beating(run, "2000-01-01")], 30.0 * look) == set()
    assert watch.find_silent([beating(run, "2000-01-01")], 30.0 * looks) == {run.run_id}
    assert watch.find_silent([beating(run, "2000-01-02")], 30.0 * looks + 30) == set()
    assert SILENT_SECONDS >= 10 * HEARTBEAT_SECONDS


def test_a_watcher_that_slept_has_seen_nothing(run: dg.DagsterRun) -> None:
    """A laptop that was closed overnight, and a clock that was set, end no run."""
    watch = HeartbeatWatch()
    for now in (0.0, 9 * 3600.0, 9 * 3600.0 + 30, 30.0, 60.0):
        assert watch.find_silent([beating(run, "b")], now) == set()


def test_runs_without_a_heartbeat_are_never_silent(run: dg.DagsterRun) -> None:
    """Queued ones, and those of older versions."""
    watch = HeartbeatWatch()
    for look in range(100):
        assert watch.find_silent([beating(run, None)], 100.0 * look) == set()
    assert watch.seen == {}


def test_the_sensor_watches_across_its_ticks(
    instance: dg.DagsterInstance, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance.add_run_tags(run.run_id, {HEARTBEAT_TAG: "the last one"})
    cursor: str | None = None
    clock = [0.0]
    monkeypatch.setattr(dead_runs.time, "time", lambda: clock[0])
    for tick in range(int(SILENT_SECONDS / 60) + 1):
        assert found(instance, run).status == dg.DagsterRunStatus.STARTED, tick
        clock[0] = 60.0 * tick
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        dead_runs.dead_runs(context)
        cursor = context.cursor
    assert found(instance, run).status == dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize("cursor", [None, "", "{}", "7", '{"seen": 3, "looked": 1}'])
def test_a_cursor_that_says_nothing_begins_anew(cursor: str | None) -> None:
    assert HeartbeatWatch.from_cursor(cursor) == HeartbeatWatch()
    watch = HeartbeatWatch({"a": ("b", 1.5)}, 7.0)
    assert HeartbeatWatch.from_cursor(watch.to_cursor()) == watch
