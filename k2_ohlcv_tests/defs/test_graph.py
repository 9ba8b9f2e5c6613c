"""The assets, jobs, checks and policies of the graph. A change here is visible to users."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from k2_ohlcv.definitions import build_definitions
from k2_ohlcv.defs import jobs
from k2_ohlcv.defs.assets import common
from k2_ohlcv.defs.partitions import first_day, partitions_definition
from k2_ohlcv.defs.retention_checks import RETENTION_LIMIT_CHECK
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.frames.check_list import CHECKS
from k2_ohlcv.lake.schemas import CANDLE_SPECS, NAMESPACE, TRADES_SPEC, TRADES_TABLE
from k2_ohlcv.settings import DEFAULT_START_DATE, Settings

SPECS = {TRADES_TABLE: TRADES_SPEC} | {t.table: CANDLE_SPECS[t.name] for t in TIMEFRAMES}


@pytest.fixture(scope="module")
def graph() -> dg.Definitions:
    return build_definitions(Settings.from_environ({}))


def asset(graph: dg.Definitions, name: str) -> dg.AssetsDefinition:
    return graph.resolve_assets_def(name)


def test_the_graph_has_the_trades_and_candle_assets(graph: dg.Definitions) -> None:
    """The assets are the trades and one candle table a timeframe."""
    keys = {key.to_user_string() for key in graph.resolve_asset_graph().get_all_asset_keys()}
    assert keys == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_every_asset_has_the_common_options(graph: dg.Definitions, name: str) -> None:
    """Each asset has group, owners, kinds, names, columns, policies and one writer at a time."""
    table = asset(graph, name)
    spec = table.get_asset_spec()
    assert spec.group_name == common.GROUP_NAME
    assert tuple(spec.owners) == common.OWNERS
    assert "iceberg" in spec.kinds
    assert spec.metadata["dagster/table_name"] == f"{NAMESPACE}.{name}"
    columns = [column.name for column in spec.metadata["dagster/column_schema"].columns]
    assert columns == [field.name for field in SPECS[name].schema.fields]
    assert table.op.retry_policy == dg.RetryPolicy(max_retries=2, delay=60)
    assert table.op.pool == name


def test_shorter_windows_run_first_in_a_run(graph: dg.Definitions) -> None:
    """By Dagster's own order, the alphabet, 1h would read the trades first, and 1m would read them again."""
    priorities = [int(asset(graph, t.table).op.tags["dagster/priority"]) for t in TIMEFRAMES]
    assert priorities == sorted(set(priorities), reverse=True)
    assert int(asset(graph, TRADES_TABLE).op.tags["dagster/priority"]) >= priorities[0]


@pytest.mark.parametrize("timeframe", TIMEFRAMES, ids=lambda t: t.name)
def test_candles_follow_trades(graph: dg.Definitions, timeframe: Timeframe) -> None:
    """Each candle partition depends on its days of trades, also in the current day and month."""
    table = asset(graph, timeframe.table)
    (dep,) = table.get_asset_spec().deps
    assert dep.asset_key.to_user_string() == TRADES_TABLE
    assert isinstance(dep.partition_mapping, dg.TimeWindowPartitionMapping)
    now = datetime.now(UTC)
    last = table.partitions_def.get_last_partition_key()
    assert last == timeframe.grain.key(timeframe.grain.partition(now))
    trades = asset(graph, TRADES_TABLE).partitions_def
    assert trades is not None
    upstream = dep.partition_mapping.get_upstream_mapped_partitions_result_for_partitions(
        table.partitions_def.subset_with_partition_keys([last]), table.partitions_def, trades
    )
    days = set(upstream.partitions_subset.get_partition_keys())
    expected = {day.isoformat() for day in timeframe.grain.partition(now).days() if day <= now.date()}
    assert days == expected
    assert upstream.required_but_nonexistent_subset.is_empty


def test_partitions_begin_at_a_date_or_with_retention() -> None:
    """A date is the start of all tables. With `retention`, each table starts where its retention ends."""
    now = datetime(2026, 11, 22, 5, tzinfo=UTC)
    dated, by_retention = Settings.from_environ({}), Settings.from_environ({"K2_START_DATE": "retention"})
    for timeframe in TIMEFRAMES:
        assert first_day(timeframe, dated) == DEFAULT_START_DATE
        first = first_day(timeframe, by_retention, now)
        assert timeframe.grain.floor(now - timeframe.default_retention).date() == first
        assert first_day(None, by_retention, now) <= first
    seventeenth = Settings.from_environ({"K2_START_DATE": "2013-01-17"})
    assert first_day(TIMEFRAMES[-1], seventeenth) == date(2013, 1, 1), "a month begins on its first"
    assert first_day(None, seventeenth) == date(2013, 1, 17)


@pytest.mark.parametrize(
    ("environ", "minute", "daily", "trades"),
    [
        ({}, "2026-08-24", "2021-11-01", "2021-11-01"),
        ({"K2_RETENTION_1M": "30d"}, "2026-10-23", "2021-11-01", "2021-11-01"),
        ({"K2_RETENTION_1D": "60d"}, "2026-08-24", "2026-09-01", "2023-11-23"),
        ({"K2_RETENTION_1M": "off"}, "2013-01-01", "2021-11-01", "2013-01-01"),
        ({"K2_RETENTION_1D": "99y"}, "2026-08-24", "2013-01-01", "2013-01-01"),
        ({"K2_RETENTION_1D": "999999d"}, "2026-08-24", "2013-01-01", "2013-01-01"),
        ({"K2_RETENTION_TRADES": "30d"}, "2026-08-24", "2021-11-01", "2021-11-01"),
        ({"K2_RETENTION_TRADES": "6y"}, "2026-08-24", "2021-11-01", "2020-11-23"),
    ],
)
def test_partitions_begin_with_the_retention_settings(
    environ: dict[str, str], minute: str, daily: str, trades: str
) -> None:
    """Each table starts with its own retention. Without a limit it starts at the default date."""
    now = datetime(2026, 11, 22, 5, tzinfo=UTC)
    settings = Settings.from_environ({"K2_START_DATE": "retention", **environ})
    tables = (TIMEFRAMES[0], TIMEFRAMES[-1], None)
    assert [first_day(t, settings, now).isoformat() for t in tables] == [minute, daily, trades]


@pytest.mark.parametrize("grain", Grain)
def test_partition_keys_are_those_of_the_domain(grain: Grain) -> None:
    """Dagster and the domain give a partition the same key and the same interval."""
    dagster_partitions = partitions_definition(grain, DEFAULT_START_DATE)
    for key in (dagster_partitions.get_first_partition_key(), dagster_partitions.get_last_partition_key()):
        window = dagster_partitions.time_window_for_partition_key(key)
        partition = grain.partition(window.start.astimezone(UTC))
        assert grain.key(partition) == key
        assert (partition.start, partition.end) == (window.start, window.end)


@pytest.mark.parametrize("start", ["", "2020-02-17", "retention"])
def test_the_graph_loads_with_each_start_of_partitions(start: str) -> None:
    """The webserver can load the graph. Exactly one job rebuilds each table, with its partitions."""
    settings = Settings.from_environ({"K2_START_DATE": start})
    graph = build_definitions(settings)
    dg.Definitions.validate_loadable(graph)
    rebuilt = jobs.rebuild_jobs(settings)
    assert [t for timeframes in rebuilt.values() for t in timeframes] == list(TIMEFRAMES)
    for name, timeframes in rebuilt.items():
        assert jobs.tables_of_job(name) == {t.table for t in timeframes}
        for timeframe in timeframes:
            partitions_def = asset(graph, timeframe.table).partitions_def
            assert graph.resolve_job_def(name).partitions_def == partitions_def


def test_each_job_selects_its_tables(graph: dg.Definitions) -> None:
    """A rebuild job has the tables of one grain, a refresh job has one table."""
    selected = {}
    for name in (jobs.INGEST_JOB, *jobs.REBUILD_JOB.values()):
        job = graph.resolve_job_def(name)
        selected[name] = {key.to_user_string() for key in job.asset_layer.selected_asset_keys}
        assert job.executor_def.name == "in_process"
    assert selected[jobs.INGEST_JOB] == {TRADES_TABLE}
    for grain, name in jobs.REBUILD_JOB.items():
        assert selected[name] == {t.table for t in TIMEFRAMES if t.grain is grain}
    for timeframe in TIMEFRAMES:
        job = graph.resolve_job_def(jobs.refresh_job_name(timeframe))
        assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {timeframe.table}
        assert job.get_run_config_for_partition_key("2024-02-01") == jobs.refresh_config(timeframe), (
            "shown in the launchpad"
        )
        assert jobs.tables_of_job(job.name) == {timeframe.table}
        assert timeframe.table in jobs.tables_of_job(jobs.REBUILD_JOB[timeframe.grain])


@pytest.mark.parametrize("timeframe", TIMEFRAMES, ids=lambda t: t.name)
def test_freshness_windows_are_those_of_the_timeframe_or_of_a_setting(
    graph: dg.Definitions, timeframe: Timeframe
) -> None:
    """`K2_REFRESH_SECONDS` gives all tables the same windows."""
    policy = asset(graph, timeframe.table).get_asset_spec().freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(
        fail_window=timeframe.fail_after, warn_window=timeframe.warn_after
    )
    frequent = asset(build_definitions(Settings.from_environ({"K2_REFRESH_SECONDS": "60"})), timeframe.table)
    window = frequent.get_asset_spec().freshness_policy
    assert window == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(minutes=2), warn_window=timedelta(minutes=1)
    )


def test_every_candle_table_has_every_check(graph: dg.Definitions) -> None:
    """A check blocks if its failure means wrong candles."""
    asset_graph = graph.resolve_asset_graph()
    for timeframe in TIMEFRAMES:
        keys = asset_graph.get_check_keys_for_assets({dg.AssetKey(timeframe.table)})
        blocking = {key.name: asset_graph.get_check_spec(key).blocking for key in keys}
        assert blocking == {
            **{check.name: check.is_blocking for check in CHECKS},
            RETENTION_LIMIT_CHECK: False,
        }
    assert graph.resolve_job_def(jobs.INGEST_JOB).asset_layer.asset_graph.asset_check_keys == set()


def test_importing_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid setting is an error when definitions are built, and not at the import."""
    import importlib

    import k2_ohlcv.definitions as module

    monkeypatch.setenv("K2_START_DATE", "yesterday")
    importlib.reload(module)
    with pytest.raises(UsageError, match="K2_START_DATE"):
        module.defs()


def test_the_instance_file_allows_one_writer_a_table() -> None:
    """The limit is on steps, because only then do runs outside the queue wait too."""
    import yaml

    root = Path(__file__).parents[2]
    config = yaml.safe_load((root / "dagster.yaml").read_text())
    assert config["concurrency"]["pools"] == {"default_limit": 1, "granularity": "op"}
    assert config["telemetry"] == {"enabled": False}
    assert config["run_monitoring"]["enabled"]
    assert config["freshness"]["enabled"]
    # The limit allows the longest wait of a policy, and still frees a stuck table within a day.
    longest = timedelta(seconds=config["run_monitoring"]["max_runtime_seconds"])
    assert max(t.fail_after for t in TIMEFRAMES) / 24 < longest < timedelta(days=1)
