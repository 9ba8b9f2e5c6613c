"""The sensor of external commits reports each commit of another writer once."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from pyiceberg.expressions import EqualTo
from pyiceberg.types import DecimalType, StringType

from k2_ohlcv.definitions import build_definitions
from k2_ohlcv.defs import ingest_job, jobs
from k2_ohlcv.defs.assets.trades import read_snapshots
from k2_ohlcv.defs.sensors import external_commits
from k2_ohlcv.domain.retention import MIN_SMALL_FILES
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.trades import make_trade


def add(lake: Lake, *days: int) -> str:
    trades = [
        make_trade(day, datetime(2024, 2, day, 12, tzinfo=UTC), 1, 1, market=("X", "Y")) for day in days
    ]
    return str(lakes.add_trades(lake, trades).metadata.current_snapshot_id)


def evaluate_sensor(
    instance: dg.DagsterInstance, cursor: str | None
) -> tuple[list[tuple[str, ...]], str | None]:
    """One tick. Returns snapshot, day, rows added and removed and rows of the day, and the cursor."""
    graph = build_definitions(Settings.from_environ())
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    tick = graph.resolve_sensor_def("external_trades_commits").evaluate_tick(context)
    events = []
    for event in tick.asset_events:
        assert isinstance(event, dg.AssetMaterialization)
        assert event.asset_key == dg.AssetKey(TRADES_TABLE)
        names = ("trades_added", "trades_removed", "dagster/partition_row_count")
        numbers = [str(event.metadata[name].value) for name in names]
        events.append((str(event.metadata["snapshot"].value), str(event.partition), *numbers))
    return events, tick.cursor


def test_each_commit_is_reported_once(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Appends and deletes are reported for each day that they touch, with counts."""
    assert evaluate_sensor(instance, None)[0] == []
    first, second = add(lake, 5, 6), add(lake, 7)
    events, cursor = evaluate_sensor(instance, None)
    assert events == [
        (first, "2024-02-05", "1", "0", "1"),
        (first, "2024-02-06", "1", "0", "1"),
        (second, "2024-02-07", "1", "0", "1"),
    ]
    assert evaluate_sensor(instance, cursor) == ([], cursor)
    trades = lake.trades()
    trades.delete(EqualTo("trade_id", "6"))
    events, cursor = evaluate_sensor(instance, cursor)
    assert [event[1:] for event in events] == [("2024-02-06", "0", "1", "0")]
    assert evaluate_sensor(instance, cursor)[0] == []


def test_commits_of_the_project_are_not_reported_again(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Commits of the trades asset and the landing job are left out. An external one between them is not."""
    folder = Settings.from_environ().landing / "X" / "AB"
    folder.mkdir(parents=True)
    graph = build_definitions(Settings.from_environ())
    (folder / "a.csv").write_text("timestamp,price,quantity,trade_id\n2024-02-27T01:00:00Z,1,1,a\n")
    job = graph.resolve_job_def(jobs.INGEST_JOB)
    assert job.execute_in_process(instance=instance, partition_key="2024-02-27").success
    external = add(lake, 5)
    (folder / "b.csv").write_text("timestamp,price,quantity,trade_id\n2024-02-28T01:00:00Z,1,1,b\n")
    config = {"ops": {ingest_job.INGEST_OP: {"config": {"files": ["X/AB/b.csv"]}}}}
    job = graph.resolve_job_def(ingest_job.INGEST_FILES_JOB)
    assert job.execute_in_process(config, instance=instance).success
    events, cursor = evaluate_sensor(instance, None)
    assert events == [(external, "2024-02-05", "1", "0", "1")]
    assert evaluate_sensor(instance, cursor)[0] == []


def test_a_commit_that_merges_small_files_is_not_reported(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Moved rows do not count as added. Otherwise the append would seem to be of another writer."""
    folder = Settings.from_environ().landing / "X" / "AB"
    folder.mkdir(parents=True)
    job = build_definitions(Settings.from_environ()).resolve_job_def(ingest_job.INGEST_FILES_JOB)
    for number in range(MIN_SMALL_FILES):
        rows = f"timestamp,price,quantity,trade_id\n2024-02-28T01:00:0{number}Z,1,1,{number}\n"
        (folder / f"{number}.csv").write_text(rows)
        config = {"ops": {ingest_job.INGEST_OP: {"config": {"files": [f"X/AB/{number}.csv"]}}}}
        assert job.execute_in_process(config, instance=instance).success
    assert len(lake.trades().inspect.files()) == 1
    assert evaluate_sensor(instance, None)[0] == []


def test_a_commit_that_only_deletes_adds_no_trades(lake: Lake) -> None:
    """The summary of such a snapshot has no count of added trades."""
    moment = datetime(2024, 2, 27, 12, tzinfo=UTC)
    lakes.add_trades(lake, [make_trade("1", moment, 1, 1, market=("X", "Y"))])
    lake.trades().delete(EqualTo("symbol", "Y"))
    assert list(read_snapshots(lake).values()) == [1, 0]


def test_the_sensor_waits_for_a_run_in_progress(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Before the run lists its commits, they cannot be distinguished from external ones."""
    add(lake, 5)
    run = dg.DagsterRun(job_name=jobs.INGEST_JOB, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(run)
    assert evaluate_sensor(instance, None)[0] == []
    instance.report_run_failed(run)
    assert len(evaluate_sensor(instance, None)[0]) == 1


def test_a_large_commit_takes_several_ticks(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_commits, "_MAX_EVENTS", 2)
    add(lake, 5, 6, 7)
    add(lake, 8)
    days, cursor = [], None
    for _ in range(3):
        events, cursor = evaluate_sensor(instance, cursor)
        days += [event[1] for event in events]
    assert days == ["2024-02-05", "2024-02-06", "2024-02-07", "2024-02-08"]


def test_a_commit_whose_days_are_unknown_is_one_observation(
    home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge-on-read delete in a table without partitions does not report thousands of days."""
    decimals = {"price": DecimalType(18, 8), "quantity": DecimalType(19, 8)}
    columns = external_tables.COLUMNS | {"trade_id": StringType(), **decimals}
    days = (datetime(2014, 2, 5, tzinfo=UTC), datetime(2024, 2, 5, tzinfo=UTC))
    trades = [make_trade(i, at, 1, 1, market=("X", "Y")) for i, at in enumerate(days)]
    table = external_tables.create_table(lakes.open_lake(home), columns, [vars(trades[0])], name="trades")
    external_tables.add_rows(table, [vars(trades[1])])
    monkeypatch.setenv("K2_TRADES_TABLE", f"{external_tables.NAMESPACE}.trades")
    _, cursor = evaluate_sensor(instance, None)
    external_tables.delete_positions(table, [(lakes.list_data_files(table)[0], 0)])
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    sensor = build_definitions(Settings.from_environ()).resolve_sensor_def("external_trades_commits")
    tick = sensor.evaluate_tick(context)
    (event,) = tick.asset_events
    assert isinstance(event, dg.AssetObservation)
    assert event.asset_key == dg.AssetKey(TRADES_TABLE)
    assert event.metadata["snapshot"].value == str(table.refresh().metadata.current_snapshot_id)
    assert evaluate_sensor(instance, tick.cursor)[0] == []
