"""Liveness of runs in other containers and on other machines, by locks and by heartbeats."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest

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

ELSEWHERE = {
    dead_runs.HOST_TAG: "elsewhere pid:[1]",
    dead_runs.PID_TAG: "1",
    dead_runs.PROCESS_STARTED_TAG: "1.00",
}

#: A run that holds its pool until it is killed.
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
def run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """A run that was started on another machine."""
    run = instance.create_run_for_job(dg.job(name="j")(lambda: None), tags=ELSEWHERE)
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", "j"), run.run_id)
    return run


def load_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    return stored


@contextmanager
def start_holder(instance: dg.DagsterInstance, prefix: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a run in another process, after a command prefix that puts it into a container."""
    environment = {**os.environ, "DAGSTER_HOME": str(instance.root_directory)}
    script = [*prefix, sys.executable, "-W", "ignore", "-c", HOLDER]
    with subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
        process.kill()


@pytest.mark.system
@pytest.mark.parametrize("uts", [[], ["--uts"]], ids=["same host name", "other host name"])
def test_the_run_of_a_killed_container_is_found_immediately(
    instance: dg.DagsterInstance, uts: list[str]
) -> None:
    """In another process namespace a pid means nothing. The lock file on the shared disk does."""
    container = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", *uts]
    if shutil.which("unshare") is None or subprocess.run([*container, "true"], check=False).returncode:
        pytest.skip("this system creates no process namespace")
    set_hostname = ["sh", "-c", 'hostname other-container; exec "$0" "$@"'] if uts else []
    with start_holder(instance, [*container, *set_hostname]) as process:
        (run,) = instance.get_runs()
        assert not dead_runs.is_process_gone(run.tags)
        assert is_lock_held(instance, run) is True
        assert dead_runs.mark_dead_runs(instance) == [], "a live run is not ended"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 20
    while not (ended := dead_runs.mark_dead_runs(instance)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert ended == [run.run_id]
    assert load_run(instance, run).status == dg.DagsterRunStatus.FAILURE
    assert instance.event_log_storage.get_concurrency_run_ids() == set()
    assert list(lock_file(instance, "").parent.iterdir()) == []


def test_a_run_has_a_lock_and_heartbeats_only_while_it_works(
    instance: dg.DagsterInstance, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_liveness, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(run_liveness, "_timestamp", iter(str(i) for i in range(10**6)).__next__)
    with run_liveness.show_liveness(instance, run.run_id, {}):
        assert is_lock_held(instance, load_run(instance, run)) is True
        deadline = time.monotonic() + 20
        while int(load_run(instance, run).tags[HEARTBEAT_TAG]) < 3:
            assert time.monotonic() < deadline
        assert not dead_runs.is_run_dead(instance, load_run(instance, run), {run.run_id})
    assert is_lock_held(instance, load_run(instance, run)) is None, "without a lock file nothing is known"
    assert not dead_runs.is_run_dead(instance, load_run(instance, run))


def test_an_unreachable_storage_does_not_end_the_run(
    instance: dg.DagsterInstance, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_liveness, "HEARTBEAT_SECONDS", 0.02)
    with run_liveness.show_liveness(instance, run.run_id, {}):
        failures: list[int] = []

        def fail(*_: object) -> None:
            failures.append(1)
            raise OSError("unreachable")

        with monkeypatch.context() as unreachable:
            unreachable.setattr(instance, "add_run_tags", fail)
            while len(failures) < 3:
                time.sleep(0.02)
        before = load_run(instance, run).tags[HEARTBEAT_TAG]
        monkeypatch.setattr(run_liveness, "_timestamp", lambda: "later")
        while load_run(instance, run).tags[HEARTBEAT_TAG] == before:
            time.sleep(0.02)


@pytest.mark.parametrize("kernel", ["another boot", None], ids=["another machine", "no lock"])
def test_the_lock_of_another_machine_is_ignored(
    instance: dg.DagsterInstance, run: dg.DagsterRun, kernel: str | None
) -> None:
    """A network disk may grant a lock twice. Only the kernel of the machine that holds a lock knows."""
    lock_file(instance, run.run_id).parent.mkdir()
    lock_file(instance, run.run_id).touch()
    instance.add_run_tags(run.run_id, {BOOT_TAG: kernel} if kernel else {"a": "b"})
    assert is_lock_held(instance, load_run(instance, run)) is None
    assert dead_runs.mark_dead_runs(instance) == []
    assert lock_file(instance, run.run_id).exists()


def with_heartbeat(run: dg.DagsterRun, heartbeat: str | None) -> dg.DagsterRun:
    return run.with_tags({**run.tags, HEARTBEAT_TAG: heartbeat}) if heartbeat else run


def test_a_run_whose_heartbeat_does_not_change_is_silent(run: dg.DagsterRun) -> None:
    """Only the time for which the watcher saw no change counts, and not the time in the heartbeat."""
    watch, ticks = HeartbeatWatch(), int(SILENT_SECONDS / 30)
    for tick in range(ticks):
        assert watch.find_silent([with_heartbeat(run, "2000-01-01")], 30.0 * tick) == set()
    assert watch.find_silent([with_heartbeat(run, "2000-01-01")], 30.0 * ticks) == {run.run_id}
    assert watch.find_silent([with_heartbeat(run, "2000-01-02")], 30.0 * ticks + 30) == set()
    assert SILENT_SECONDS >= 10 * HEARTBEAT_SECONDS


def test_a_watcher_that_slept_finds_no_silent_run(run: dg.DagsterRun) -> None:
    """A laptop that was closed overnight or a clock that was set ends no run."""
    watch = HeartbeatWatch()
    for now in (0.0, 9 * 3600.0, 9 * 3600.0 + 30, 30.0, 60.0):
        assert watch.find_silent([with_heartbeat(run, "b")], now) == set()


def test_runs_without_a_heartbeat_are_never_silent(run: dg.DagsterRun) -> None:
    """Queued runs and runs of older versions have no heartbeat."""
    watch = HeartbeatWatch()
    for tick in range(100):
        assert watch.find_silent([with_heartbeat(run, None)], 100.0 * tick) == set()
    assert watch.seen == {}


def test_the_sensor_watches_across_its_ticks(
    instance: dg.DagsterInstance, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance.add_run_tags(run.run_id, {HEARTBEAT_TAG: "the last one"})
    cursor: str | None = None
    clock = [0.0]
    monkeypatch.setattr(dead_runs.time, "time", lambda: clock[0])
    for tick in range(int(SILENT_SECONDS / 60) + 1):
        assert load_run(instance, run).status == dg.DagsterRunStatus.STARTED, tick
        clock[0] = 60.0 * tick
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        dead_runs.dead_runs(context)
        cursor = context.cursor
    assert load_run(instance, run).status == dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize("cursor", [None, "", "{}", "7", '{"seen": 3, "looked": 1}'])
def test_an_invalid_cursor_is_read_as_an_empty_one(cursor: str | None) -> None:
    assert HeartbeatWatch.from_cursor(cursor) == HeartbeatWatch()
    watch = HeartbeatWatch({"a": ("b", 1.5)}, 7.0)
    assert HeartbeatWatch.from_cursor(watch.to_cursor()) == watch
