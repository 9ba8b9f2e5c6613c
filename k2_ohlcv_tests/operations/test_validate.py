"""Checks: each breaks in its own way, is found with the right count, and no other is blamed."""

from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest

from k2_ohlcv.domain.intervals import DAY, from_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.operations.reports import ReconciledWindows
from k2_ohlcv.operations.validate import validate
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import HOUR, MINUTE, damage, day_interval, first_rows
from k2_ohlcv_tests.support.check_findings import BLOCKING, SPAN, find_check, list_failures
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades


@pytest.fixture
def week_lake(sail: EngineLake) -> EngineLake:
    lakes.add_trades(sail.lake, week_of_trades())
    for each in TIMEFRAMES:
        sail.refresh(each)
    return sail


def test_sound_tables_pass_every_check(each_engine: EngineLake) -> None:
    """On both engines, every table, with everything examined."""
    lakes.add_trades(each_engine.lake, week_of_trades())
    for each in TIMEFRAMES:
        each_engine.rebuild(each, cache=each_engine.run.windows)
    for each in TIMEFRAMES:
        assert list_failures(each_engine, each) == {}
        assert find_check(each_engine, "reconciles_with_trades", each).examined == len(
            lakes.read_candles(each_engine.lake, each)
        )


MINUTE_LATER = timedelta(minutes=1)


def with_another(rows: pl.DataFrame) -> pl.DataFrame:
    """A candle a minute after the first one, where there were no trades."""
    later = rows[:1].with_columns(
        pl.col("window_start") + MINUTE_LATER,
        pl.col("window_end") + MINUTE_LATER,
    )
    return pl.concat([rows, later])


#: What is done to the first rows of a day, and how many failures each check must then count.
DAMAGE: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], dict[str, int]]] = {
    "high below open": (
        first_rows(2, high_price=pl.col("low_price") / 2, vwap=pl.col("low_price")),
        {"price_relationships": 2, "vwap_bounds": 2, "reconciles_with_trades": 2},
    ),
    "vwap above high": (first_rows(3, vwap=pl.col("high_price") + 1), {"vwap_bounds": 3}),
    "no volume": (first_rows(1, volume=pl.lit(0)), {"positive_metrics": 1, "reconciles_with_trades": 1}),
    "another volume": (first_rows(4, volume=pl.col("volume") * 2), {"reconciles_with_trades": 4}),
    "wrong end": (first_rows(2, window_end=pl.col("window_end") + MINUTE_LATER), {"window_alignment": 2}),
    "wrong date": (first_rows(1, window_date=pl.col("window_date") + DAY), {"window_alignment": 1}),
    "repeated rows": (lambda rows: pl.concat([rows, rows[:2]]), {"unique_windows": 4}),
    "a missing candle": (lambda rows: rows[1:], {"reconciles_with_trades": 1}),
    "a candle without trades": (with_another, {"reconciles_with_trades": 1}),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_each_damage_fails_its_check_and_no_other(week_lake: EngineLake, kind: str) -> None:
    change, wanted = DAMAGE[kind]
    damage(week_lake, change)
    found = list_failures(week_lake)
    assert found == wanted
    for name in found:
        one = find_check(week_lake, name)
        assert one.partitions == ("2024-02-28",)
        assert one.rows is not None
        assert one.rows.height == min(found[name], 20)


def test_a_row_in_the_wrong_partition_is_misaligned(week_lake: EngineLake) -> None:
    table_history.add_to_wrong_day(week_lake.lake.candles(MINUTE), day_interval(AT + DAY).start)
    assert list_failures(week_lake)["window_alignment"] == 1
    assert find_check(week_lake, "window_alignment").partitions == ("2024-02-28", "2024-02-29")


def test_a_longer_table_must_be_the_roll_up_of_1m(week_lake: EngineLake) -> None:
    """Damage in 1h that the trades tell, and in the open price that only 1m tells."""
    damage(week_lake, first_rows(1, open_price=pl.col("high_price")), HOUR)
    changed = list_failures(week_lake, HOUR)
    assert set(changed) <= {"timeframes_agree"}
    damage(week_lake, first_rows(2, trade_count=pl.col("trade_count") + 1), HOUR)
    assert list_failures(week_lake, HOUR)["timeframes_agree"] == 2
    assert find_check(week_lake, "timeframes_agree", HOUR).rows is not None


def test_both_sides_are_shown(week_lake: EngineLake) -> None:
    damage(week_lake, first_rows(1, volume=pl.col("volume") + 1))
    rows = find_check(week_lake, "reconciles_with_trades").rows
    assert rows is not None
    assert rows["volume"].item() == rows["volume_trades"].item() + 1


def test_windows_dirty_since_the_watermark_are_pending_not_wrong(week_lake: EngineLake) -> None:
    """And all others are still held to the trades."""
    lakes.add_trades(week_lake.lake, [make_trade(1000, AT)])
    one = find_check(week_lake, "reconciles_with_trades")
    assert one.is_ok
    assert dict(one.numbers)["pending_windows"] == 1
    damage(week_lake, first_rows(3, volume=pl.col("volume") * 2))
    assert find_check(week_lake, "reconciles_with_trades").failures == 2


def test_partitions_that_were_never_made_are_pending(sail: EngineLake) -> None:
    """Without a watermark; those that were made are held to the trades."""
    lakes.add_trades(sail.lake, week_of_trades())
    sail.rebuild(MINUTE, [day_interval(AT)])
    one = find_check(sail, "reconciles_with_trades")
    assert (one.examined, one.failures) == (24, 0)
    damage(sail, first_rows(1, volume=pl.col("volume") * 2))
    assert find_check(sail, "reconciles_with_trades").failures == 1


def test_after_a_run_nothing_is_pending(week_lake: EngineLake) -> None:
    """At the run's pinned snapshot, all that it reconciled must be right, later trades or not."""
    pinned = week_lake.lake.trades().metadata.current_snapshot_id
    lakes.add_trades(week_lake.lake, [make_trade(1000, AT)])
    reconciled = ReconciledWindows(pinned, (day_interval(AT),))
    found = week_lake.validate(MINUTE, [day_interval(AT)], reconciled=reconciled)
    assert all(f.is_ok for f in found if f.check in BLOCKING)


def test_gaps_are_told_apart(week_lake: EngineLake) -> None:
    one = find_check(week_lake, "gaps")
    assert one.is_ok
    assert dict(one.numbers)["no trades then"] == len(week_of_trades()) - 1
    lakes.add_trades(week_lake.lake, [make_trade(1000, AT + timedelta(minutes=3))])
    assert dict(find_check(week_lake, "gaps").numbers)["not computed yet"] == 1


def test_freshness_is_that_of_the_watermark(week_lake: EngineLake) -> None:
    assert find_check(week_lake, "freshness").is_ok
    lakes.add_trades(week_lake.lake, [make_trade(1000, AT)])
    lake, engine = week_lake.lake, week_lake.engine
    committed = lake.trades().current_snapshot()
    assert committed is not None
    at = from_micros(committed.timestamp_ms * 1000)
    for past, late in ((MINUTE.warn_after, 0), (MINUTE.warn_after + timedelta(seconds=1), 1)):
        found = validate(lake, engine, MINUTE, [day_interval(AT)], now=at + past)
        assert {f.check: f.failures for f in found}["freshness"] == late


def test_an_empty_table_passes(sail: EngineLake) -> None:
    assert list_failures(sail) == {}


def test_a_table_that_cannot_be_read_raises(week_lake: EngineLake) -> None:
    """An outage is not a failed check."""
    table = week_lake.lake.candles(MINUTE)
    for path in lakes.list_data_files(table):
        table.io.delete(path)
    with pytest.raises(FileNotFoundError):
        week_lake.validate(MINUTE, [SPAN])
