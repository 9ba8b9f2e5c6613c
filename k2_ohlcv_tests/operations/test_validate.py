"""Validation: each kind of damage fails its own check with the right count, and no other check."""

from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest

from k2_ohlcv.domain.intervals import DAY, from_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.operations.reports import ReconciledWindows
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import HOUR, MINUTE, damage, day_interval, first_rows
from k2_ohlcv_tests.support.check_findings import BLOCKING, SPAN, find_check, list_failures
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades


@pytest.fixture
def week_lake(sail: EngineLake) -> EngineLake:
    """Three days of trades with every table up to date."""
    lakes.add_trades(sail.lake, week_of_trades())
    sail.refresh_tables(*TIMEFRAMES)
    return sail


def test_correct_tables_pass_every_check(each_engine: EngineLake) -> None:
    """Both engines examine every candle of every table."""
    lakes.add_trades(each_engine.lake, week_of_trades())
    for timeframe in TIMEFRAMES:
        each_engine.rebuild(timeframe, cache=each_engine.run.windows)
    for timeframe in TIMEFRAMES:
        assert list_failures(each_engine, timeframe) == {}
        assert find_check(each_engine, "reconciles_with_trades", timeframe).examined == len(
            lakes.read_candles(each_engine.lake, timeframe)
        )


MINUTE_LATER = timedelta(minutes=1)


def add_candle(rows: pl.DataFrame) -> pl.DataFrame:
    """A candle one minute after the first, where no trade is."""
    candle = rows[:1].with_columns(pl.col("window_start") + MINUTE_LATER, pl.col("window_end") + MINUTE_LATER)
    return pl.concat([rows, candle])


#: A change of the first rows of a day, and the failures that each check must then count.
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
    "a candle without trades": (add_candle, {"reconciles_with_trades": 1}),
}


@pytest.mark.parametrize("damage_name", DAMAGE)
def test_each_damage_fails_its_check_and_no_other(week_lake: EngineLake, damage_name: str) -> None:
    """The finding counts the damaged rows, names the day and shows sample rows."""
    change, expected = DAMAGE[damage_name]
    damage(week_lake, change)
    failures = list_failures(week_lake)
    assert failures == expected
    for name in failures:
        finding = find_check(week_lake, name)
        assert finding.partitions == ("2024-02-28",)
        assert finding.rows.height == min(failures[name], 20)
        assert not {"misplaced", "task"} & {*finding.rows.columns}, "people see no columns of the reader"


def test_a_row_in_the_wrong_partition_is_misaligned(week_lake: EngineLake) -> None:
    """The finding names both the partition of the file and the day of the row."""
    table_history.add_to_wrong_day(week_lake.lake.candles(MINUTE), day_interval(AT + DAY).start)
    assert list_failures(week_lake)["window_alignment"] == 1
    assert find_check(week_lake, "window_alignment").partitions == ("2024-02-28", "2024-02-29")


def test_a_longer_table_must_be_the_roll_up_of_1m(week_lake: EngineLake) -> None:
    """The check fails for values that the trades contradict, and for values that only 1m contradicts."""
    damage(week_lake, first_rows(1, open_price=pl.col("high_price")), HOUR)
    changed = list_failures(week_lake, HOUR)
    assert set(changed) <= {"timeframes_agree"}
    damage(week_lake, first_rows(2, trade_count=pl.col("trade_count") + 1), HOUR)
    assert list_failures(week_lake, HOUR)["timeframes_agree"] == 2
    assert find_check(week_lake, "timeframes_agree", HOUR).rows is not None


def test_both_compared_values_are_shown(week_lake: EngineLake) -> None:
    """Sample rows have the stored value and the value from trades."""
    damage(week_lake, first_rows(1, volume=pl.col("volume") + 1))
    rows = find_check(week_lake, "reconciles_with_trades").rows
    assert rows is not None
    assert rows["volume"].item() == rows["volume_trades"].item() + 1


def test_dirty_windows_are_pending(week_lake: EngineLake) -> None:
    """All other windows are still compared with the trades."""
    lakes.add_trades(week_lake.lake, [make_trade(1000, AT)])
    finding = find_check(week_lake, "reconciles_with_trades")
    assert finding.is_ok
    assert dict(finding.numbers)["pending_windows"] == 1
    damage(week_lake, first_rows(3, volume=pl.col("volume") * 2))
    assert find_check(week_lake, "reconciles_with_trades").failures == 2


def test_partitions_without_a_rebuild_are_pending(sail: EngineLake) -> None:
    """Without a watermark only rebuilt partitions are compared with the trades."""
    lakes.add_trades(sail.lake, week_of_trades())
    sail.rebuild(MINUTE, [day_interval(AT)])
    finding = find_check(sail, "reconciles_with_trades")
    assert (finding.examined, finding.failures) == (24, 0)
    damage(sail, first_rows(1, volume=pl.col("volume") * 2))
    assert find_check(sail, "reconciles_with_trades").failures == 1


def test_after_a_run_nothing_is_pending(week_lake: EngineLake) -> None:
    """At the run's pinned snapshot every reconciled window must be right, whatever trades came later."""
    pinned = week_lake.lake.trades().metadata.current_snapshot_id
    lakes.add_trades(week_lake.lake, [make_trade(1000, AT)])
    reconciled = ReconciledWindows(pinned, (day_interval(AT),))
    findings = week_lake.validate(MINUTE, [day_interval(AT)], reconciled=reconciled)
    assert all(f.is_ok for f in findings if f.check in BLOCKING)


def test_gaps_have_their_reasons(week_lake: EngineLake) -> None:
    """A window has no candle since it has no trades, or since it is not computed yet."""
    finding = find_check(week_lake, "gaps")
    assert finding.is_ok
    assert dict(finding.numbers)["no trades then"] == len(week_of_trades()) - 1
    lakes.add_trades(week_lake.lake, [make_trade(1000, AT + timedelta(minutes=3))])
    assert dict(find_check(week_lake, "gaps").numbers)["not computed yet"] == 1


def test_freshness_is_measured_from_the_watermark(week_lake: EngineLake) -> None:
    """The check fails when the first newer trades snapshot is older than the limit."""
    assert find_check(week_lake, "freshness").is_ok
    lakes.add_trades(week_lake.lake, [make_trade(1000, AT)])
    committed = week_lake.lake.trades().current_snapshot()
    at = from_micros(committed.timestamp_ms * 1000)
    for past, late in ((MINUTE.warn_after, 0), (MINUTE.warn_after + timedelta(seconds=1), 1)):
        findings = week_lake.validate(MINUTE, [day_interval(AT)], now=at + past)
        assert {f.check: f.failures for f in findings}["freshness"] == late


def test_an_empty_table_passes(sail: EngineLake) -> None:
    """Every check passes without a candle."""
    assert list_failures(sail) == {}


def test_a_table_that_cannot_be_read_raises(week_lake: EngineLake) -> None:
    """A storage error is not a failed check."""
    table = week_lake.lake.candles(MINUTE)
    for path in lakes.list_data_files(table):
        table.io.delete(path)
    with pytest.raises(FileNotFoundError):
        week_lake.validate(MINUTE, [SPAN])
