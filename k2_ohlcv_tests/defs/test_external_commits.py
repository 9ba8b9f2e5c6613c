"""What other writers commit to trades is in the graph, each commit once, and our own not again."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from pyiceberg.expressions import EqualTo
from pyiceberg.types import DecimalType, StringType, TimestamptzType

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

# Dagster 1.13 reads a pydantic attribute that pydantic 2.14 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


@pytest.fixture
def lake(home: Path) -> Lake:
    return lakes.open_lake(home)


def add(lake: Lake, *days: int) -> str:
    trades = [
        make_trade(day, datetime(2024, 2, day, 12, tzinfo=UTC), 1, 1, market=("X", "Y")) for day in days
    ]
    return str(lakes.add_trades(lake, trades).metadata.current_snapshot_id)


def look(instance: dg.DagsterInstance, cursor: str | None) -> tuple[list[tuple[str, ...]], str | None]:
    """One tick: snapshot, day, rows added and removed, and rows of the day, of each event; and the cursor."""
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
    """Appends, several at once, and deletes; the days that each touched, with counts."""
    assert look(instance, None)[0] == []
    first, second = add(lake, 5, 6), add(lake, 7)
    events, cursor = look(instance, None)
    assert events == [
        (first, "2024-02-05", "1", "0", "1"),
        (first, "2024-02-06", "1", "0", "1"),
        (second, "2024-02-07", "1", "0", "1"),
    ]
    assert look(instance, cursor) == ([], cursor)
    trades = lake.trades()
    trades.delete(EqualTo("trade_id", "6"))
    events, cursor = look(instance, cursor)
    assert [event[1:] for event in events] == [("2024-02-06", "0", "1", "0")]
    assert look(instance, cursor)[0] == []


def test_our_own_commits_are_not_reported_again(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Neither those of the trades asset nor those of the landing sensor's job; another's between them are."""
    folder = Settings.from_environ().landing / "X" / "AB"
    folder.mkdir(parents=True)
    graph = build_definitions(Settings.from_environ())
    (folder / "a.csv").write_text("timestamp,price,quantity,trade_id\n2024-02-27T01:00:00Z,1,1,a\n")
    job = graph.resolve_job_def(jobs.INGEST_JOB)
    assert job.execute_in_process(instance=instance, partition_key="2024-02-27").success
    theirs = add(lake, 5)
    (folder / "b.csv").write_text("timestamp,price,quantity,trade_id\n2024-02-28T01:00:00Z,1,1,b\n")
    config = {"ops": {ingest_job.INGEST_OP: {"config": {"files": ["X/AB/b.csv"]}}}}
    job = graph.resolve_job_def(ingest_job.INGEST_FILES_JOB)
    assert job.execute_in_process(config, instance=instance).success
    events, cursor = look(instance, None)
    assert events == [(theirs, "2024-02-05", "1", "0", "1")]
    assert look(instance, cursor)[0] == []


def test_a_commit_of_ours_that_merges_small_files_is_ours(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Rows that it only moved do not count as added: else the append beside it would be another writer's."""
    folder = Settings.from_environ().landing / "X" / "AB"
    folder.mkdir(parents=True)
    job = build_definitions(Settings.from_environ()).resolve_job_def(ingest_job.INGEST_FILES_JOB)
    for number in range(MIN_SMALL_FILES):
        rows = f"timestamp,price,quantity,trade_id\n2024-02-28T01:00:0{number}Z,1,1,{number}\n"
        (folder / f"{number}.csv").write_text(rows)
        config = {"ops": {ingest_job.INGEST_OP: {"config": {"files": [f"X/AB/{number}.csv"]}}}}
        assert job.execute_in_process(config, instance=instance).success
    assert len(lake.trades().inspect.files()) == 1
    assert look(instance, None)[0] == []


def test_a_commit_that_only_deletes_adds_no_trades(lake: Lake) -> None:
    """Its summary does not say so: whoever counts what each snapshot added has to know."""
    moment = datetime(2024, 2, 27, 12, tzinfo=UTC)
    lakes.add_trades(lake, [make_trade("1", moment, 1, 1, market=("X", "Y"))])
    lake.trades().delete(EqualTo("symbol", "Y"))
    assert list(read_snapshots(lake).values()) == [1, 0]


def test_a_run_at_work_is_waited_for(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Its commits can't be told from others' before it lists them."""
    add(lake, 5)
    run = dg.DagsterRun(job_name=jobs.INGEST_JOB, status=dg.DagsterRunStatus.STARTED)
    instance.add_run(run)
    assert look(instance, None)[0] == []
    instance.report_run_failed(run)
    assert len(look(instance, None)[0]) == 1


def test_a_large_commit_takes_several_looks(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_commits, "_MAX_EVENTS", 2)
    add(lake, 5, 6, 7)
    add(lake, 8)
    seen, cursor = [], None
    for _ in range(3):
        events, cursor = look(instance, cursor)
        seen += [event[1] for event in events]
    assert seen == ["2024-02-05", "2024-02-06", "2024-02-07", "2024-02-08"]


def test_a_commit_whose_days_cannot_be_told_is_one_observation(
    home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row deleted merge-on-read, in an external table without partitions: not thousands of days."""
    columns = {
        "exchange": StringType(),
        "symbol": StringType(),
        "trade_id": StringType(),
        "timestamp": TimestamptzType(),
        "price": DecimalType(18, 8),
        "quantity": DecimalType(19, 8),
    }
    days = (datetime(2014, 2, 5, tzinfo=UTC), datetime(2024, 2, 5, tzinfo=UTC))
    some = [make_trade(i, at, 1, 1, market=("X", "Y")) for i, at in enumerate(days)]
    table = external_tables.create_table(lakes.open_lake(home), columns, [vars(some[0])], name="trades")
    external_tables.add_rows(table, [vars(some[1])])
    monkeypatch.setenv("K2_TRADES_TABLE", f"{external_tables.NAMESPACE}.trades")
    _, cursor = look(instance, None)
    external_tables.delete_positions(table, [(lakes.list_data_files(table)[0], 0)])
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    sensor = build_definitions(Settings.from_environ()).resolve_sensor_def("external_trades_commits")
    tick = sensor.evaluate_tick(context)
    (event,) = tick.asset_events
    assert isinstance(event, dg.AssetObservation)
    assert event.asset_key == dg.AssetKey(TRADES_TABLE)
    assert event.metadata["snapshot"].value == str(table.refresh().metadata.current_snapshot_id)
    assert look(instance, tick.cursor)[0] == []
