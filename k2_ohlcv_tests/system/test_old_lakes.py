"""Lakes that earlier versions made open in this one, and end with the right candles.

`lake-of-2026-11-25` was made by the code of commit 5352bb5, whose watermarks say a snapshot id and no more.
The script lies in the archive as `made_by.py`: check that commit out and run it to make the lake again, then
pack /tmp/k2-lake-of-2026-11-25. What it did, in this order:

1. ingest three days of three markets (2024-01-29 to 31), refresh all tables;
2. ingest two more days, over the end of the month, with rows known already, two rows that are no trades and
   an id that came back with another price (all three are in `rejected_trades`), refresh all tables;
3. retention: 1m candles before 01-30 dropped (`k2.expired-before`), trades before 01-31 dropped
   (`k2.frozen-before` on trades); the candles of all other windows before 01-31 are the only record left;
4. ingest a late trade, refresh 1m and 5m only; ingest another late trade, which no table has yet; ingest one
   that is too late, and rejected.

The CSV beside it has what `domain.candle.aggregate` made of all those trades, those expired since included.
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
#: The windows that the last late trades fall into.
LATE = [datetime(2024, 2, 1, 5, tzinfo=UTC), datetime(2024, 1, 31, 0, 3, tzinfo=UTC)]
#: A week's trades of 2024 are old, and have hours without trades.
NOT_ABOUT_CANDLES = {"freshness", "gaps"}
KEPT_FOR_GOOD = {each.name: None for each in TIMEFRAMES}


@pytest.fixture
def old(sail: EngineLake) -> Iterator[EngineLake]:
    """The lake as it was left, and an engine."""
    with old_lakes.unpacked(NAME) as home:
        yield replace(sail, lake=lakes.open_lake(home), home=home)


def refresh_all(old: EngineLake) -> None:
    for each in TIMEFRAMES:
        refresh(old.lake, old.engine, each)


def assert_right(lake: Lake) -> None:
    """Every table holds exactly the candles that belong there, those of expired trades included."""
    wanted = old_lakes.candles(NAME)
    for each in TIMEFRAMES:
        assert lakes.read_candles(lake, each) == wanted[each.name], each.name


def test_the_lake_is_what_its_description_says(old: EngineLake) -> None:
    """A fixture that lacked a line, or had nothing left to do, would show nothing."""
    tables = {each.name: old.lake.candles(each) for each in TIMEFRAMES}
    trades = old.lake.trades()
    assert read_bound(trades, FROZEN_BEFORE) == OLD_FROZEN_BEFORE
    assert read_bound(tables["1m"], EXPIRED_BEFORE) == OLD_EXPIRED_BEFORE
    oldest = pl.DataFrame(trades.scan().to_arrow())["timestamp"].min()
    assert oldest == OLD_FROZEN_BEFORE
    marks = {name: table.properties["k2.trades-snapshot-id"] for name, table in tables.items()}
    assert marks["1m"] != marks["1h"] != str(trades.metadata.current_snapshot_id) != marks["1m"]
    reasons = [row["reason"] for row in old.lake.rejected().scan().to_arrow().to_pylist()]
    assert sorted(reason[:8] for reason in reasons) == ["conflict", "price is", "timestam", "too late"]
    wanted = old_lakes.candles(NAME)
    for each in TIMEFRAMES:
        assert lakes.read_candles(old.lake, each) != wanted[each.name], each.name


def test_a_refresh_makes_every_table_right(old: EngineLake) -> None:
    """Frozen candles stay as they are, clocks included; expired ones do not come back; then it is done."""
    before = {each: lakes.read_frame(old.lake, each) for each in TIMEFRAMES}
    reasons = [preview_refresh(old.lake, each).reason for each in TIMEFRAMES]
    assert all("an older version" in (reason or "") for reason in reasons), "one full refresh, and why"
    refresh_all(old)
    assert_right(old.lake)
    for each in TIMEFRAMES:
        touched = pl.col("window_start").is_in([each.floor(moment) for moment in LATE])
        same = [
            frame.filter(~touched).sort(*KEY_COLUMNS)
            for frame in (before[each], lakes.read_frame(old.lake, each))
        ]
        assert same[0].equals(same[1]), each.name
    places = [old.lake.candles(each).metadata_location for each in TIMEFRAMES]
    refresh_all(old)
    assert [old.lake.candles(each).metadata_location for each in TIMEFRAMES] == places
    assert all(preview_refresh(old.lake, each).is_current for each in TIMEFRAMES)


def test_a_rebuild_of_everything_makes_every_table_right(old: EngineLake) -> None:
    for each in TIMEFRAMES:
        rebuild(old.lake, old.engine, each)
    assert_right(old.lake)
    refresh_all(old)
    assert_right(old.lake)


def test_trades_come_in_once_and_late_ones_count(old: EngineLake, tmp_path: Path) -> None:
    """Every stored id is known, a trade of the frozen days is too late, a new one changes its windows."""
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
    wanted = [c.trade_count for c in old_lakes.candles(NAME)["1d"]]
    assert sum(c.trade_count for c in lakes.read_candles(old.lake, daily)) == sum(wanted) + 1


def test_retention_says_what_would_go_next(old: EngineLake) -> None:
    """A day further: one more day of 1m candles, one more day of trades, and nothing holds them back."""
    refresh_all(old)
    kept = RetentionPolicy({**KEPT_FOR_GOOD, "1m": 2 * DAY}, DAY, 5 * DAY)
    files = sorted(path for path in old.home.rglob("*") if path.is_file())
    report = retention(old.lake, kept)
    going = {table.table: table.partitions for table in report.tables if table.partitions}
    assert going == {"gold_crypto_trades": ("2024-01-31",), "gold_ohlcv_1m": ("2024-01-30",)}
    assert not any(table.blocked for table in report.tables)
    assert sorted(path for path in old.home.rglob("*") if path.is_file()) == files


def test_checks_of_the_upgraded_lake_pass(old: EngineLake) -> None:
    refresh_all(old)
    month = [Interval(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))]
    for each in TIMEFRAMES:
        findings = validate(old.lake, old.engine, each, month)
        assert [found for found in findings if found.failures and found.check not in NOT_ABOUT_CANDLES] == []
