"""Runs of the graph on real tables: ranges, empty days, failures, and runs with a killed process."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from k2_ohlcv.definitions import build_definitions
from k2_ohlcv.defs import dead_runs, jobs
from k2_ohlcv.defs.failures import INTERACTIVE_TAG
from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

HOUR = find_timeframe("1h")
DAILY = jobs.REBUILD_JOB[Grain.DAY]


def execute(
    instance: dg.DagsterInstance, job: str, first: str, last: str | None = None, **tags: str
) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(Settings.from_environ())
    span = (
        {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        if last
        else {}
    )
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=None if last else first, tags={**span, **tags}, raise_on_error=False
    )


def trade(day: int, hour: int, price: str = "10", trade_id: str = "1") -> Trade:
    moment = datetime(2024, 2, day, hour, tzinfo=UTC)
    return make_trade(f"{day}-{hour}-{trade_id}", moment, price, "0.5", market=("X", "AB"))


def test_a_run_over_a_range_equals_runs_of_its_partitions(
    lake: Lake,
    instance: dg.DagsterInstance,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One run over three days stores the same candles as three runs, and counts rows by day."""
    trades = [trade(27, 1), trade(27, 2), trade(28, 3), trade(29, 4)]
    lakes.add_trades(lake, trades)
    result = execute(instance, DAILY, "2024-02-27", "2024-02-29")
    assert result.success
    lakes.assert_equal_to_trades(lake, trades, jobs.timeframes_of_grain(Grain.DAY))
    records = instance.fetch_materializations(dg.AssetKey(HOUR.table), limit=10).records
    rows = {
        r.partition_key: r.asset_materialization.metadata["dagster/partition_row_count"].value
        for r in records
    }
    assert rows == {"2024-02-27": 2, "2024-02-28": 1, "2024-02-29": 1}

    other = tmp_path_factory.mktemp("one-by-one")
    monkeypatch.setenv("K2_HOME", str(other))
    second = lakes.open_lake(other)
    lakes.add_trades(second, trades)
    for day in ("2024-02-27", "2024-02-28", "2024-02-29"):
        assert execute(instance, DAILY, day).success
    assert lakes.read_candles(second, HOUR) == lakes.read_candles(lake, HOUR)


def test_a_day_without_trades_succeeds(home: Path, instance: dg.DagsterInstance) -> None:
    """A day without trades or files needs no work. The run logs this."""
    for job, day in (
        (jobs.INGEST_JOB, "2024-02-27"),
        (DAILY, "2024-02-27"),
        (jobs.REBUILD_JOB[Grain.MONTH], "2024-02-01"),
    ):
        result = execute(instance, job, day)
        assert result.success
        messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
        assert any("nothing to" in message.lower() for message in messages), job


def test_landing_files_are_read_for_the_chosen_days(
    home: Path, lake: Lake, instance: dg.DagsterInstance
) -> None:
    """The trades asset ingests the rows of its partition, and leaves other days to their partitions."""
    folder = home / "landing" / "X" / "AB"
    folder.mkdir(parents=True)
    lines = ["timestamp,price,quantity,trade_id", "2024-02-27T01:00:00Z,1,1,a", "2024-02-28T01:00:00Z,2,1,b"]
    (folder / "t.csv").write_text("\n".join([*lines, ""]))
    (folder / "t2.csv.part").write_text("not finished")
    assert execute(instance, jobs.INGEST_JOB, "2024-02-28").success
    assert lake.trades().scan().to_arrow()["trade_id"].to_pylist() == ["b"]
    assert execute(instance, jobs.INGEST_JOB, "2024-02-27", "2024-02-28").success
    assert sorted(lake.trades().scan().to_arrow()["trade_id"].to_pylist()) == ["a", "b"]
    latest = instance.fetch_materializations(dg.AssetKey(TRADES_TABLE), limit=2).records
    added = {r.partition_key: r.asset_materialization.metadata["trades_added"].value for r in latest}
    assert added == {"2024-02-27": 1, "2024-02-28": 0}
    rows = {r.asset_materialization.metadata["dagster/partition_row_count"].value for r in latest}
    assert rows == {1}, "rows that were stored before count too"


def test_a_file_that_cannot_be_read_is_not_retried(home: Path, instance: dg.DagsterInstance) -> None:
    """The run fails without a retry, and gives the reason."""
    folder = home / "landing" / "X" / "AB"
    folder.mkdir(parents=True)
    (folder / "t.csv").write_text("")
    started = time.monotonic()
    result = execute(instance, jobs.INGEST_JOB, "2024-02-28")
    assert not result.success
    assert time.monotonic() - started < 30, "the retry policy would have waited a minute"
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "t.csv" in failure.step_failure_data.user_failure_data.description


def test_an_interactive_run_does_not_wait_for_retries(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of the command line sees an outage without waiting for retries."""
    lakes.add_trades(lake, [trade(28, 3)])
    monkeypatch.setenv("SPARK_REMOTE", "sc://127.0.0.1:9")
    result = execute(instance, DAILY, "2024-02-28", **{INTERACTIVE_TAG: "true"})
    failed = [
        event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure
    ]
    assert "127.0.0.1:9" in failed[0].description


HOLDER = """
import os, sys, time
import dagster as dg
from k2_ohlcv.defs import dead_runs

@dg.asset(pool={pool!r})
def holder():
    print("holding", flush=True)
    time.sleep(600)

with dg.DagsterInstance.from_ref(dg.DagsterInstance.get().get_ref()) as instance:
    dg.Definitions([holder]).resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, tags=dead_runs.process_tags()
    )
"""


@pytest.fixture
def killed(instance: dg.DagsterInstance) -> str:
    """The id of a run whose process SIGKILL ended while the run had the pool of the hourly table."""
    environment = {**os.environ, "DAGSTER_HOME": str(instance.root_directory)}
    script = [sys.executable, "-W", "ignore", "-c", HOLDER.format(pool=HOUR.table)]
    with subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        (run,) = instance.get_runs()
        assert not dead_runs.is_process_gone(run.tags)
        assert dead_runs.mark_dead_runs(instance) == [], "a live run is not ended"
        os.kill(process.pid, signal.SIGKILL)
    return run.run_id


@pytest.mark.system
def test_a_killed_process_does_not_block_its_table(
    killed: str, lake: Lake, instance: dg.DagsterInstance
) -> None:
    """The next run of the table marks the dead run as failed, takes its pool and succeeds."""
    assert instance.event_log_storage.get_concurrency_run_ids() == {killed}
    lakes.add_trades(lake, [trade(28, 3)])
    assert execute(instance, DAILY, "2024-02-28").success
    dead = instance.get_run_by_id(killed)
    assert dead is not None
    assert dead.status == dg.DagsterRunStatus.FAILURE


@pytest.mark.system
def test_the_sensor_ends_dead_runs(killed: str, instance: dg.DagsterInstance) -> None:
    """A queued run cannot find the dead run that holds its pool. The sensor does, and runs by default."""
    assert dead_runs.dead_runs.default_status == dg.DefaultSensorStatus.RUNNING
    skip = dead_runs.dead_runs(dg.build_sensor_context(instance=instance))
    assert killed in skip.skip_message
    assert instance.event_log_storage.get_concurrency_run_ids() == set()
    assert dead_runs.mark_dead_runs(instance) == []


@pytest.mark.parametrize(
    ("change", "is_gone"),
    [
        ({}, False),
        ({dead_runs.PID_TAG: "999999999"}, True),
        ({dead_runs.PROCESS_STARTED_TAG: "1000.00"}, True),
        ({dead_runs.HOST_TAG: "elsewhere"}, False),
        ({dead_runs.PID_TAG: ""}, False),
    ],
    ids=["alive", "no such pid", "pid used again", "another machine", "not recorded"],
)
def test_a_process_is_gone_when_its_pid_is_free_or_reused(change: dict[str, str], is_gone: bool) -> None:
    assert dead_runs.is_process_gone({**dead_runs.process_tags(), **change}) is is_gone
