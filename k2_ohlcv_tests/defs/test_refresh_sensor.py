"""The refresh sensors: the time and the content of their run requests, and their skip messages."""

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

MINUTE = find_timeframe("1m")
TICK, WINDOW = timedelta(seconds=30), MINUTE.warn_after
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake in the environment. Its tables appear to be stale for two days longer than they are."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    opened = lakes.open_lake(tmp_path)
    real = TableLag.measure

    def aged(lake: Lake, timeframe: Timeframe) -> TableLag:
        lag = real(lake, timeframe)
        return replace(lag, stale_since=lag.stale_since - timedelta(days=2)) if lag.stale_since else lag

    monkeypatch.setattr(TableLag, "measure", aged)
    return opened


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def add(lake: Lake, day: int) -> int:
    moment = datetime(2024, 2, day, 12, tzinfo=UTC)
    table = lakes.add_trades(lake, [make_trade(day, moment, 1, 1, market=("X", "Y"))])
    snapshot = table.metadata.current_snapshot_id
    assert snapshot is not None
    return snapshot


def mark(lake: Lake, snapshot: int) -> None:
    lakes.set_watermark(lake, MINUTE, snapshot)


def evaluate_sensor(instance: dg.DagsterInstance, timeframe: Timeframe = MINUTE) -> dg.RunRequest | str:
    """One tick of a sensor: its run request, or its skip message."""
    graph = build_definitions(Settings.from_environ({}))
    sensor = graph.resolve_sensor_def(f"{jobs.refresh_job_name(timeframe)}_when_stale")
    tick = sensor.evaluate_tick(
        dg.build_sensor_context(instance=instance, repository_def=graph.get_repository_def())
    )
    if tick.run_requests:
        (request,) = tick.run_requests
        return request
    assert tick.skip_message
    return tick.skip_message


def record(
    instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus, job: str = "refresh_1m"
) -> dg.DagsterRun:
    """Store a run of a request with that status."""
    run = dg.DagsterRun(
        job_name=job, run_id=dg._core.utils.make_new_run_id(), status=status, tags=request.tags
    )
    instance.add_run(run)
    return run


def test_every_candle_table_has_a_running_sensor() -> None:
    graph = build_definitions(Settings.from_environ({"K2_SENSOR_SECONDS": "7"}))
    for timeframe in TIMEFRAMES:
        sensor = graph.resolve_sensor_def(f"{jobs.refresh_job_name(timeframe)}_when_stale")
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
        assert sensor.minimum_interval_seconds == 7
        assert refresh.freshness_window(graph.resolve_assets_def(timeframe.table)) == timeframe.warn_after


def test_a_current_table_is_skipped_as_up_to_date(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert "up to date" in str(evaluate_sensor(instance))
    mark(lake, add(lake, 27))
    assert "up to date" in str(evaluate_sensor(instance))


def test_a_stale_table_gets_a_run_request(lake: Lake, instance: dg.DagsterInstance) -> None:
    """The request has the newest dirty partition, the job's config, a priority and a time limit."""
    before = add(lake, 27)
    mark(lake, before)
    add(lake, 20)
    snapshot = add(lake, 25)
    request = evaluate_sensor(instance)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2024-02-25", "the newest dirty partition, not the newest one"
    candles = lake.candles(MINUTE).metadata.current_snapshot_id
    assert request.run_key == f"{MINUTE.table}:{before}:{candles}:{snapshot}:0"
    assert request.run_config == jobs.refresh_config(MINUTE)
    assert request.tags["dagster/max_runtime"] == "300"
    again = evaluate_sensor(instance)
    assert isinstance(again, dg.RunRequest)
    assert again.run_key == request.run_key, "a repeated tick has the same key"
    requests = [evaluate_sensor(instance, timeframe) for timeframe in TIMEFRAMES]
    order = [int(r.tags["dagster/priority"]) for r in requests if isinstance(r, dg.RunRequest)]
    assert order == sorted(order, reverse=True)
    assert len(set(order)) == len(TIMEFRAMES), "1m first"


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED], ids=["requested", "in progress"]
)
def test_a_table_with_a_run_in_flight_is_skipped(
    lake: Lake, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    add(lake, 27)
    request = evaluate_sensor(instance)
    assert isinstance(request, dg.RunRequest)
    run = record(instance, request, status)
    add(lake, 28)
    message = evaluate_sensor(instance)
    assert isinstance(message, str)
    assert run.run_id in message
    assert isinstance(evaluate_sensor(instance, find_timeframe("1h")), dg.RunRequest), (
        "other tables are not skipped"
    )
    assert dg.DagsterRunStatus.QUEUED in dead_runs.IN_FLIGHT_STATUSES


def test_a_table_with_a_rebuild_in_flight_is_skipped(lake: Lake, instance: dg.DagsterInstance) -> None:
    """A refresh would wait for the pool of the rebuild until its own time limit."""
    add(lake, 27)
    run = record(instance, dg.RunRequest(), dg.DagsterRunStatus.STARTED, "rebuild_daily")
    assert run.run_id in str(evaluate_sensor(instance))
    assert isinstance(evaluate_sensor(instance, find_timeframe("1d")), dg.RunRequest)


def test_a_failed_run_is_requested_again_after_a_growing_pause(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt has its own run key and a longer pause, also when new trades came in between."""
    add(lake, 27)
    keys = []
    for attempt in range(3):
        monkeypatch.setattr(refresh, "_MIN_RETRY_DELAY", timedelta(0))
        request = evaluate_sensor(instance)
        assert isinstance(request, dg.RunRequest)
        assert request.tags[run_tags.ATTEMPT_TAG] == str(attempt)
        keys.append(request.run_key)
        instance.report_run_failed(record(instance, request, dg.DagsterRunStatus.STARTED))
        monkeypatch.setattr(refresh, "_MIN_RETRY_DELAY", timedelta(minutes=1))
        message = evaluate_sensor(instance)
        assert isinstance(message, str)
        assert f"{attempt + 1} runs made no progress" in message
        add(lake, 28 - attempt)
    assert len(set(keys)) == 3


def test_the_retry_delay_grows_to_a_limit() -> None:
    minutes = [retry_delay(n) / timedelta(minutes=1) for n in (1, 2, 3, 7, 50, 5000)]
    assert minutes == [1, 2, 4, 60, 60, 60]


@pytest.mark.parametrize(
    ("stale_for", "is_requested"),
    [
        (timedelta(0), False),
        (WINDOW - TICK - timedelta(seconds=1), False),
        (WINDOW - TICK, True),
        (WINDOW * 3, True),
    ],
    ids=["fresh", "the next tick is early enough", "the next tick is too late", "long"],
)
def test_a_run_is_requested_before_the_freshness_window_ends(
    lake: Lake, stale_for: timedelta, is_requested: bool
) -> None:
    """A run is requested shortly before a table is stale for its window, and not at every commit."""
    add(lake, 27)
    lag = replace(TableLag.measure(lake, MINUTE), stale_since=NOW - stale_for)
    reason = skip_reason(lag, WINDOW, TICK, TableRuns(), NOW)
    assert (reason is None) is is_requested
    if reason:
        assert "0:05:00" in reason
