"""The size of a backfill's runs, and how Dagster cuts a backfill by it."""

import socket
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.automation_tick_evaluation_context import (
    build_run_requests_with_backfill_policies,
)
from dagster._core.definitions.events import AssetKeyPartitionKey

from k2_ohlcv.definitions import build_definitions
from k2_ohlcv.defs.backfill import candles_backfill_policy, measurement_folder
from k2_ohlcv.defs.log_progress import LOG_SECONDS, log_progress
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.run_size import DEFAULT_RUN_DAYS
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.operations.backfill_size import BackfillSize
from k2_ohlcv.operations.run_progress import RunProgress
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

START = datetime(2024, 1, 15, tzinfo=UTC)
DAYS = 60


def policies() -> dict[str, int | None]:
    """The partitions of a run of each table; None for all of them."""
    graph = build_definitions(Settings.from_environ())
    found = {}
    for name in (TRADES_TABLE, *(t.table for t in TIMEFRAMES)):
        policy = graph.resolve_assets_def(name).backfill_policy
        assert policy is not None
        found[name] = policy.max_partitions_per_run
    return found


def expected(days: int, months: int) -> dict[str, int | None]:
    sizes = {Grain.DAY: days, Grain.MONTH: months}
    return {TRADES_TABLE: None, **{t.table: sizes[t.grain] for t in TIMEFRAMES}}


@pytest.mark.usefixtures("home")
def test_measured_trades_set_the_size_and_the_setting_overrides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All daily tables have one size, so that one run has them all. Trades are ingested in one run."""
    assert policies() == expected(DEFAULT_RUN_DAYS, 1)
    BackfillSize(1_000, 400, 13).save(measurement_folder(Settings.from_environ()))
    assert policies() == expected(400, 13)
    monkeypatch.setenv("K2_BACKFILL_DAYS", "62")
    assert policies() == expected(62, 2)


def test_loading_the_graph_asks_no_lake(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lake that cannot be reached delays nothing. Loading opens no catalog and no connection."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the lake was asked")

    monkeypatch.setattr(Lake, "open", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert policies() == expected(DEFAULT_RUN_DAYS, 1)
    assert list(home.iterdir()) == []


def test_the_sensor_measures_trades(lake: Lake, instance: dg.DagsterInstance) -> None:
    """The sensor that watches commits of trades. A folder that cannot be written only warns."""
    folder = measurement_folder(Settings.from_environ())
    lakes.add_trades(lake, [make_trade(i, START + i * DAY) for i in range(3)])

    def evaluate() -> Any:
        graph = build_definitions(Settings.from_environ())
        context = dg.build_sensor_context(instance=instance)
        return graph.resolve_sensor_def("external_trades_commits").evaluate_tick(context)

    folder.write_text("a file where a folder should be")
    assert len(evaluate().asset_events) == 3
    folder.unlink()
    assert len(evaluate().asset_events) == 3
    size = BackfillSize.load(folder)
    assert size
    assert size.trades == 3
    assert policies() == expected(size.days, size.months)


def test_a_backfill_is_cut_into_runs_of_all_daily_tables(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty days in runs of 25 days. The months of 1d have runs of their own."""
    monkeypatch.setenv("K2_BACKFILL_DAYS", "25")
    graph = build_definitions(Settings.from_environ()).resolve_asset_graph()
    span = Interval(START, START + DAYS * DAY)
    chosen = [
        AssetKeyPartitionKey(dg.AssetKey(t.table), t.grain.key(partition))
        for t in TIMEFRAMES
        for partition in t.grain.partitions([span])
    ]
    requests = build_run_requests_with_backfill_policies(chosen, graph, instance)
    ranges = Counter[tuple[str, ...]]()
    for request in requests:
        assert request.asset_selection
        tables = sorted(key.to_user_string() for key in request.asset_selection)
        ends = (request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end"))
        ranges[(*ends, *tables)] += 1
    daily = sorted(t.table for t in TIMEFRAMES if t.grain is Grain.DAY)
    assert sorted(ranges.elements()) == [
        ("2024-01-01", "2024-01-01", "gold_ohlcv_1d"),
        ("2024-01-15", "2024-02-08", *daily),
        ("2024-02-01", "2024-02-01", "gold_ohlcv_1d"),
        ("2024-02-09", "2024-03-04", *daily),
        ("2024-03-01", "2024-03-01", "gold_ohlcv_1d"),
        ("2024-03-05", "2024-03-14", *daily),
    ]


def test_progress_is_logged_at_a_measured_pace() -> None:
    """A commit every three seconds is a line every twelve. A run of a few seconds has none."""
    now = 0.0
    lines: list[tuple[str, dict[str, object]]] = []
    log = SimpleNamespace(info=lambda text, extra: lines.append((text, extra["k2"])))
    context: Any = SimpleNamespace(log=log)
    show = log_progress(context, lambda: now)
    for done in range(9):
        show(RunProgress("gold_ohlcv_1m", done, 8, 1_000 * done, now, 1_000.0 * done, 8_000.0))
        now += 3.0
    assert 9.0 < LOG_SECONDS <= 12.0
    assert [text for text, _ in lines] == [
        "gold_ohlcv_1m: 4 of 8 partitions, 333 trades/s, 0:00:12 left",
        "gold_ohlcv_1m: 8 of 8 partitions, 333 trades/s, 0:00:00 left",
    ]
    assert lines[0][1]["event"] == "progress"
    assert lines[0][1]["seconds_left"] == 12


def test_the_policy_is_of_the_settings_and_not_of_the_environment(tmp_path: Path) -> None:
    settings = lakes.lake_settings(tmp_path, K2_BACKFILL_DAYS="7")
    assert candles_backfill_policy(Grain.DAY, settings) == dg.BackfillPolicy.multi_run(7)
