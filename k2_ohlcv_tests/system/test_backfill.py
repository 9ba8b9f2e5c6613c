"""A backfill from the UI is cut into several runs. All tables equal the reference afterwards."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import URLError

import pytest

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.run_size import months_of_days
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.dagster_ui import DagsterUI, start_dagster, wait_until
from k2_ohlcv_tests.support.trades import make_trade

pytestmark = pytest.mark.system

START = datetime(2024, 1, 15, tzinfo=UTC)
DAYS = 60
RUN_DAYS = 20
TRADES = [
    make_trade(f"{day}-{i}", START + day * DAY + timedelta(hours=5 * i), 100 + i, f"0.{day % 9 + 1}")
    for day in range(DAYS)
    for i in range(5)
]
#: The refresh sensors wait for longer than the test.
SETTINGS = {"K2_BACKFILL_DAYS": str(RUN_DAYS), "K2_REFRESH_SECONDS": "86400"}
#: Seconds for each backfill. An idle machine takes one minute.
TIME_LIMIT = 300.0


def wait_for_start(ui: DagsterUI, log: Path) -> None:
    """Wait until the webserver answers."""

    def is_up() -> bool:
        try:
            return bool(ui.sensors())
        except (URLError, ConnectionError, KeyError):
            return False

    wait_until(is_up, TIME_LIMIT, lambda: log.read_text()[-4000:])


def run_backfill(ui: DagsterUI, grain: Grain, log: Path) -> list[tuple[str, str]]:
    """Backfill all tables of a grain. Returns the first and last partition of each run."""
    tables = [t.table for t in TIMEFRAMES if t.grain is grain]
    span = Interval(START, START + DAYS * DAY)
    known = {run["runId"] for run in ui.runs()}
    backfill = ui.backfill(tables, [grain.key(p) for p in grain.partitions([span])])
    wait_until(
        lambda: ui.backfill_status(backfill).startswith(("COMPLETED", "FAILED", "CANCELED")),
        TIME_LIMIT,
        lambda: log.read_text()[-4000:],
    )
    assert ui.backfill_status(backfill) == "COMPLETED_SUCCESS", log.read_text()[-4000:]
    ranges = []
    for run in ui.runs():
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        if run["runId"] not in known and tags.get("dagster/backfill") == backfill:
            first, last = (tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end"))
            ranges.append((first, last))
    return sorted(ranges)


@pytest.mark.timeout(960)
def test_a_long_backfill_has_several_runs(tmp_path: Path) -> None:
    """Sixty days in runs of twenty, then three months. The last run of each table completes its watermark."""
    home, log = tmp_path / "home", tmp_path / "dagster.log"
    lake = lakes.open_lake(home)
    lakes.add_trades(lake, TRADES)
    with start_dagster(home, log, **SETTINGS) as (_, ui):
        wait_for_start(ui, log)
        daily = run_backfill(ui, Grain.DAY, log)
        monthly = run_backfill(ui, Grain.MONTH, log)
    assert months_of_days(RUN_DAYS) == 1
    assert daily == [("2024-01-15", "2024-02-03"), ("2024-02-04", "2024-02-23"), ("2024-02-24", "2024-03-14")]
    assert monthly == [(month, month) for month in ("2024-01-01", "2024-02-01", "2024-03-01")]
    lakes.assert_equal_to_trades(lake, TRADES)
    assert not [t.table for t in TIMEFRAMES if TableLag.measure(lake, t).is_stale]
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    ends = [line for line in lines if line.get("event") == "backfill progress" and not line["seconds_left"]]
    assert {line["table"] for line in ends} == {t.table for t in TIMEFRAMES}, "the last run of each table"
    rebuilt = [line["table"] for line in lines if line.get("event") == "candles rebuilt"]
    assert sorted(rebuilt) == sorted(t.table for t in TIMEFRAMES for _ in range(3))
