"""The sensors of the candle tables: when they ask, what for, and in which words they do not."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from k2_ohlcv.definitions import build_definitions
from k2_ohlcv.defs import dead_runs, jobs, run_tags
from k2_ohlcv.defs.sensors import refresh
from k2_ohlcv.defs.sensors.refresh import TableRuns, retry_delay, skip_reason
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

# Dagster 1.13 reads a pydantic attribute that pydantic 2.14 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

MINUTE = find_timeframe("1m")
TICK, WINDOW = timedelta(seconds=30), MINUTE.warn_after
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake that the sensors find in the environment, its trades an hour old to each that asks."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    made = lakes.open_lake(tmp_path)
    real = TableLag.measure

    def aged(lake: Lake, one: Timeframe) -> TableLag:
        found = real(lake, one)
        return (
            replace(found, stale_since=found.stale_since - timedelta(days=2)) if found.stale_since else found
        )

    monkeypatch.setattr(TableLag, "measure", aged)
    return made


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def add(lake: Lake, day: int) -> int:
    moment = datetime(2024, 2, day, 12, tzinfo=UTC)
    table = lakes.add_trades(lake, [make_trade(day, moment, 1, 1, market=("X", "Y"))])
    snapshot = table.metadata.current_snapshot_id
    assert snapshot is not None
    return snapshot


def mark(lake: Lake, snapshot: int) -> None:
    lakes.set_watermark(lake, MINUTE, snapshot)


def look(instance: dg.DagsterInstance, one: Timeframe = MINUTE) -> dg.RunRequest | str:
    """One tick of a sensor as the daemon would do it."""
    graph = build_definitions(Settings.from_environ({}))
    sensor = graph.resolve_sensor_def(f"{jobs.refresh_job_name(one)}_when_stale")
    tick = sensor.evaluate_tick(
        dg.build_sensor_context(instance=instance, repository_def=graph.get_repository_def())
    )
    if tick.run_requests:
        (asked,) = tick.run_requests
        return asked
    assert tick.skip_message
    return tick.skip_message


def record(
    instance: dg.DagsterInstance, asked: dg.RunRequest, status: dg.DagsterRunStatus, job: str = "refresh_1m"
) -> dg.DagsterRun:
    """The run of a request, in some state."""
    run = dg.DagsterRun(job_name=job, run_id=dg._core.utils.make_new_run_id(), status=status, tags=asked.tags)
    instance.add_run(run)
    return run


def test_every_candle_table_has_one_that_runs() -> None:
    graph = build_definitions(Settings.from_environ({"K2_SENSOR_SECONDS": "7"}))
    for one in TIMEFRAMES:
        sensor = graph.resolve_sensor_def(f"{jobs.refresh_job_name(one)}_when_stale")
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
        assert sensor.minimum_interval_seconds == 7
        assert refresh.freshness_window(graph.resolve_assets_def(one.table)) == one.warn_after


def test_up_to_date_is_said_so(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert "up to date" in str(look(instance))
    mark(lake, add(lake, 27))
    assert "up to date" in str(look(instance))


def test_what_is_asked_for(lake: Lake, instance: dg.DagsterInstance) -> None:
    """The newest dirty partition, the job's config, who goes first, and how long it may take."""
    before = add(lake, 27)
    mark(lake, before)
    add(lake, 20)
    snapshot = add(lake, 25)
    asked = look(instance)
    assert isinstance(asked, dg.RunRequest)
    assert asked.partition_key == "2024-02-25", "the newest dirty one, not the newest"
    candles = lake.candles(MINUTE).metadata.current_snapshot_id
    assert asked.run_key == f"{MINUTE.table}:{before}:{candles}:{snapshot}:0"
    assert asked.run_config == jobs.refresh_config(MINUTE)
    assert asked.tags["dagster/max_runtime"] == "300"
    again = look(instance)
    assert isinstance(again, dg.RunRequest)
    assert again.run_key == asked.run_key, "a tick that repeats asks once"
    others = [look(instance, one) for one in TIMEFRAMES]
    order = [int(one.tags["dagster/priority"]) for one in others if isinstance(one, dg.RunRequest)]
    assert order == sorted(order, reverse=True)
    assert len(set(order)) == len(TIMEFRAMES), "1m first"


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED], ids=["asked for", "at work"]
)
def test_a_run_in_flight_is_not_doubled(
    lake: Lake, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    add(lake, 27)
    asked = look(instance)
    assert isinstance(asked, dg.RunRequest)
    run = record(instance, asked, status)
    add(lake, 28)
    said = look(instance)
    assert isinstance(said, str)
    assert run.run_id in said
    assert isinstance(look(instance, find_timeframe("1h")), dg.RunRequest), "it holds up no other table"
    assert dg.DagsterRunStatus.QUEUED in dead_runs.IN_FLIGHT_STATUSES


def test_a_rebuild_in_flight_counts_too(lake: Lake, instance: dg.DagsterInstance) -> None:
    """A refresh behind a long rebuild would wait for its pool until its own time is up."""
    add(lake, 27)
    run = record(instance, dg.RunRequest(), dg.DagsterRunStatus.STARTED, "rebuild_daily")
    assert run.run_id in str(look(instance))
    assert isinstance(look(instance, find_timeframe("1d")), dg.RunRequest)


def test_a_failed_run_is_asked_for_again_with_a_growing_pause(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt has a key of its own, also where trades have grown meanwhile, and waits longer."""
    add(lake, 27)
    keys = []
    for attempt in range(3):
        monkeypatch.setattr(refresh, "_MIN_RETRY_DELAY", timedelta(0))
        asked = look(instance)
        assert isinstance(asked, dg.RunRequest)
        assert asked.tags[run_tags.ATTEMPT_TAG] == str(attempt)
        keys.append(asked.run_key)
        instance.report_run_failed(record(instance, asked, dg.DagsterRunStatus.STARTED))
        monkeypatch.setattr(refresh, "_MIN_RETRY_DELAY", timedelta(minutes=1))
        said = look(instance)
        assert isinstance(said, str)
        assert f"{attempt + 1} runs made no progress" in said
        add(lake, 28 - attempt)
    assert len(set(keys)) == 3


def test_the_pause_grows_to_a_limit() -> None:
    minutes = [retry_delay(n) / timedelta(minutes=1) for n in (1, 2, 3, 7, 50, 5000)]
    assert minutes == [1, 2, 4, 60, 60, 60]


@pytest.mark.parametrize(
    ("behind", "asked"),
    [
        (timedelta(0), False),
        (WINDOW - TICK - timedelta(seconds=1), False),
        (WINDOW - TICK, True),
        (WINDOW * 3, True),
    ],
    ids=["at once", "a look later is early enough", "a look later is too late", "long"],
)
def test_when_it_is_time(lake: Lake, behind: timedelta, asked: bool) -> None:
    """Before the table is behind for longer than its window, not at every commit."""
    add(lake, 27)
    found = replace(TableLag.measure(lake, MINUTE), stale_since=NOW - behind)
    reason = skip_reason(found, WINDOW, TICK, TableRuns(), NOW)
    assert (reason is None) is asked
    if reason:
        assert "0:05:00" in reason
