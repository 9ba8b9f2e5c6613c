"""Lakes of earlier versions can be opened, refreshed, rebuilt, validated and cut by retention.

The code of commit 5352bb5 made `lake-of-2026-11-25`. Its watermarks have only a snapshot id.
The archive has the script as `made_by.py`. To make the lake again, check out that commit and run the script,
then pack /tmp/k2-lake-of-2026-11-25. The script did, in this order:

1. ingest three days of three markets (2024-01-29 to 31), refresh all tables;
2. ingest two more days, over the end of the month, with duplicates, two invalid rows and one conflict
   (all three rows are in `rejected_trades`), refresh all tables;
3. retention: 1m candles before 01-30 dropped (`k2.expired-before`), trades before 01-31 dropped
  (`k2.frozen-before` on trades); the other candles before 01-31 are then the only record;
4. ingest a late trade, refresh 1m and 5m only; ingest another late trade, which no table has yet; ingest a
   trade that is too late and rejected.

The CSV beside the archive has the candles that `domain.candle.aggregate` computed from all those trades.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.retention import RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE, read_bound
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.operations.reconcile import preview_refresh, rebuild, refresh
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.operations.validate import validate
from k2_ohlcv_tests.support import lakes, old_lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake

NAME = "lake-of-2026-11-25"
OLD_EXPIRED_BEFORE = datetime(2024, 1, 30, tzinfo=UTC)
OLD_FROZEN_BEFORE = datetime(2024, 1, 31, tzinfo=UTC)
#: The windows of the last late trades.
LATE = [datetime(2024, 2, 1, 5, tzinfo=UTC), datetime(2024, 1, 31, 0, 3, tzinfo=UTC)]
#: Checks that fail although the candles are right: the trades are old, with hours without trades.
EXPECTED_FAILURES = {"freshness", "gaps"}
NO_RETENTION = {timeframe.name: None for timeframe in TIMEFRAMES}


@pytest.fixture
def old(sail: EngineLake) -> Iterator[EngineLake]:
    """The old lake, and an engine."""
    with old_lakes.unpacked(NAME) as home:
        yield replace(sail, lake=lakes.open_lake(home), home=home)


def refresh_all(old: EngineLake) -> None:
    for timeframe in TIMEFRAMES:
        refresh(old.lake, old.engine, timeframe)


def assert_expected_candles(lake: Lake) -> None:
    """Every table has exactly the expected candles, also those of dropped trades."""
    expected = old_lakes.candles(NAME)
    for timeframe in TIMEFRAMES:
        assert lakes.read_candles(lake, timeframe) == expected[timeframe.name], timeframe.name


def test_the_old_lake_is_as_described(old: EngineLake) -> None:
    """Without history bounds or dirty windows, the other tests would test nothing."""
    tables = {timeframe.name: old.lake.candles(timeframe) for timeframe in TIMEFRAMES}
    trades = old.lake.trades()
    assert read_bound(trades, FROZEN_BEFORE) == OLD_FROZEN_BEFORE
    assert read_bound(tables["1m"], EXPIRED_BEFORE) == OLD_EXPIRED_BEFORE
    oldest = pl.DataFrame(trades.scan().to_arrow())["timestamp"].min()
    assert oldest == OLD_FROZEN_BEFORE
    marks = {name: table.properties["k2.trades-snapshot-id"] for name, table in tables.items()}
    assert marks["1m"] != marks["1h"] != str(trades.metadata.current_snapshot_id) != marks["1m"]
    reasons = [row["reason"] for row in old.lake.rejected().scan().to_arrow().to_pylist()]
    assert sorted(reason[:8] for reason in reasons) == ["conflict", "price is", "timestam", "too late"]
    expected = old_lakes.candles(NAME)
    for timeframe in TIMEFRAMES:
        assert lakes.read_candles(old.lake, timeframe) != expected[timeframe.name], timeframe.name


def test_a_refresh_brings_every_table_up_to_date(old: EngineLake) -> None:
    """Frozen candles keep their values and clocks. Expired candles stay dropped. Nothing is dirty after."""
    before = {timeframe: lakes.read_frame(old.lake, timeframe) for timeframe in TIMEFRAMES}
    reasons = [preview_refresh(old.lake, timeframe).reason for timeframe in TIMEFRAMES]
    assert all("an older version" in (reason or "") for reason in reasons), (
        "one full refresh, with its reason"
    )
    refresh_all(old)
    assert_expected_candles(old.lake)
    for timeframe in TIMEFRAMES:
        is_late = pl.col("window_start").is_in([timeframe.floor(moment) for moment in LATE])
        unchanged = [
            frame.filter(~is_late).sort(*KEY_COLUMNS)
            for frame in (before[timeframe], lakes.read_frame(old.lake, timeframe))
        ]
        assert unchanged[0].equals(unchanged[1]), timeframe.name
    locations = [old.lake.candles(timeframe).metadata_location for timeframe in TIMEFRAMES]
    refresh_all(old)
    assert [old.lake.candles(timeframe).metadata_location for timeframe in TIMEFRAMES] == locations
    assert all(preview_refresh(old.lake, timeframe).is_current for timeframe in TIMEFRAMES)


def test_a_rebuild_brings_every_table_up_to_date(old: EngineLake) -> None:
    for timeframe in TIMEFRAMES:
        rebuild(old.lake, old.engine, timeframe)
    assert_expected_candles(old.lake)
    refresh_all(old)
    assert_expected_candles(old.lake)


def test_known_trades_are_duplicates_and_late_trades_change_their_windows(
    old: EngineLake, tmp_path: Path
) -> None:
    """Stored ids are duplicates. A trade of a frozen day is too late. A new trade changes its windows."""
    rows = pl.DataFrame(old.lake.trades().scan().to_arrow()).drop("ingested_at")
    path = tmp_path / "again.csv"
    rows.write_csv(path)
    report = ingest(old.lake, [path], workspace=tmp_path / "work")
    assert (report.duplicates, report.read) == (rows.height, rows.height)
    last = rows.sort("timestamp").tail(1)
    late = last.with_columns(trade_id=pl.lit("31000"), timestamp=pl.lit(OLD_EXPIRED_BEFORE))
    new = last.with_columns(trade_id=pl.lit("31001"))
    pl.concat([late, new]).write_csv(path)
    report = ingest(old.lake, [path], workspace=tmp_path / "work")
    assert (report.added, report.rejected) == (1, 1)
    refresh_all(old)
    daily = find_timeframe("1d")
    expected = [c.trade_count for c in old_lakes.candles(NAME)["1d"]]
    assert sum(c.trade_count for c in lakes.read_candles(old.lake, daily)) == sum(expected) + 1


def test_a_dry_run_of_retention_names_the_next_partitions(old: EngineLake) -> None:
    """With a shorter retention, one more day of 1m candles and one more day of trades are due."""
    refresh_all(old)
    policy = RetentionPolicy({**NO_RETENTION, "1m": 2 * DAY}, DAY, 5 * DAY)
    files = sorted(path for path in old.home.rglob("*") if path.is_file())
    report = retention(old.lake, policy)
    due = {table.table: table.partitions for table in report.tables if table.partitions}
    assert due == {"gold_crypto_trades": ("2024-01-31",), "gold_ohlcv_1m": ("2024-01-30",)}
    assert not any(table.blocked for table in report.tables)
    assert sorted(path for path in old.home.rglob("*") if path.is_file()) == files


def test_checks_of_the_upgraded_lake_pass(old: EngineLake) -> None:
    refresh_all(old)
    month = [Interval(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))]
    for timeframe in TIMEFRAMES:
        findings = validate(old.lake, old.engine, timeframe, month)
        assert [f for f in findings if f.failures and f.check not in EXPECTED_FAILURES] == []
