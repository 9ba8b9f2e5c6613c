"""The log line about a whole backfill counts its runs, and estimates by their trades."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from k2_ohlcv.defs.backfill_progress import log_backfill_progress
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import Timeframe, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

START = datetime(2024, 2, 1, tzinfo=UTC)
MINUTE, HOUR, DAILY = (find_timeframe(name) for name in ("1m", "1h", "1d"))
STATUS = dg.DagsterRunStatus


def add_run(
    instance: dg.DagsterInstance, first: int, last: int, status: STATUS, *timeframes: Timeframe
) -> dg.DagsterRun:
    """A run of the backfill `abc` over the days of February from first to last."""
    run = dg.DagsterRun(
        "__ASSET_JOB",
        status=status,
        asset_selection=frozenset(dg.AssetKey(t.table) for t in timeframes),
        tags={
            "dagster/backfill": "abc",
            "dagster/asset_partition_range_start": f"2024-02-{first:02}",
            "dagster/asset_partition_range_end": f"2024-02-{last:02}",
        },
    )
    instance.add_run(run)
    return run


def logged(
    instance: dg.DagsterInstance, lake: Lake, run: dg.DagsterRun, seconds: float
) -> list[tuple[str, dict[str, object]]]:
    """The lines of a run that ends so many seconds after the backfill began."""
    lines: list[tuple[str, dict[str, object]]] = []
    log = SimpleNamespace(info=lambda text, extra: lines.append((text, extra["k2"])))
    context: Any = SimpleNamespace(log=log, run=run, instance=instance)
    log_backfill_progress(context, lake, MINUTE, lambda: 1_000_000.0 + seconds)
    return lines


def test_partitions_and_time_left_of_all_runs(
    lake: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days 1 to 10 have 5 trades each, the others 10. Failed runs and other tables do not count."""
    trades = [
        make_trade(f"{day}-{i}", START + day * DAY + timedelta(minutes=i))
        for day in range(29)
        for i in range(5 if day < 10 else 10)
    ]
    lakes.add_trades(lake, trades)
    add_run(instance, 1, 4, STATUS.SUCCESS, MINUTE, HOUR)
    own = add_run(instance, 5, 10, STATUS.STARTED, MINUTE, HOUR)
    add_run(instance, 11, 15, STATUS.STARTED, MINUTE, HOUR)
    add_run(instance, 16, 20, STATUS.NOT_STARTED, MINUTE, HOUR)
    add_run(instance, 21, 29, STATUS.FAILURE, MINUTE, HOUR)
    add_run(instance, 1, 1, STATUS.NOT_STARTED, DAILY)
    records = instance.get_run_records()
    started = [record._replace(start_time=1_000_000.0) for record in records]
    monkeypatch.setattr(
        type(instance), "get_run_records", lambda _, filters: [r for r in started if filters.tags]
    )
    (line,) = logged(instance, lake, own, seconds=10)
    assert line[0] == "backfill abc: gold_ohlcv_1m: 10 of 20 partitions, 5 trades/s, 0:00:20 left"
    assert line[1] == {
        "event": "backfill progress",
        "backfill": "abc",
        "table": "gold_ohlcv_1m",
        "partitions_done": 10,
        "partitions": 20,
        "trades": 50,
        "trades_per_second": 5,
        "seconds_left": 20,
    }


def test_another_run_logs_nothing(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert logged(instance, lake, dg.DagsterRun("refresh_1m"), time.time()) == []
