"""Commits of other writers to candle tables: each is found, reported and repaired."""

from collections.abc import Callable

import polars as pl
import pytest
from pyiceberg.table import Table
from structlog.testing import capture_logs

from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.lake.watermark import carry_over_summary
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import MINUTE, assert_refreshed, day_interval, minute_candles
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades

#: The filter of the candles of the first day.
FIRST_DAY = f"window_date == '{AT:%Y-%m-%d}'"


def overwrite_day(table: Table) -> None:
    """Double the volumes of a day."""
    rows = pl.DataFrame(table.scan().to_arrow()).filter(pl.col("window_date") == AT.date())
    doubled = rows.with_columns(volume=(pl.col("volume") * 2).cast(pl.Decimal(29, 8)))
    table.overwrite(doubled.to_arrow().cast(table.schema().as_arrow()), FIRST_DAY)


def delete_day(table: Table) -> None:
    table.delete(FIRST_DAY)


def append_day_again(table: Table) -> None:
    rows = table.scan(row_filter=FIRST_DAY).to_arrow()
    table.append(rows)


EXTERNAL_COMMITS = [overwrite_day, delete_day, append_day_again]


@pytest.mark.parametrize("external_commit", EXTERNAL_COMMITS)
def test_external_commits_are_found(three_days: EngineLake, external_commit: Callable[[Table], None]) -> None:
    """Refresh reconciles exactly those partitions, and validation fails before it."""
    external_commit(minute_candles(three_days))
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    assert TableLag.measure(three_days.lake, MINUTE).dirty_partitions() == [day_interval(AT)]
    failed_checks = {f.check for f in three_days.validate(MINUTE, [day_interval(AT)]) if not f.is_ok}
    assert failed_checks & {"reconciles_with_trades", "unique_windows"}
    report = three_days.refresh(MINUTE)
    assert report.plan.partitions == [day_interval(AT)]
    assert_refreshed(three_days, week_of_trades())


def test_freshness_reports_an_external_commit(three_days: EngineLake) -> None:
    """The table is stale although no trade is newer."""
    delete_day(minute_candles(three_days))
    notes = {f.check: f.note for f in three_days.validate(MINUTE, [day_interval(AT)])}
    assert "another writer changed" in notes["freshness"]


@pytest.mark.parametrize("external_commit", EXTERNAL_COMMITS)
def test_a_rebuild_of_another_day_leaves_the_damaged_day_open(
    three_days: EngineLake, external_commit: Callable[[Table], None]
) -> None:
    """A commit of this project covers only the partitions that it reconciled."""
    external_commit(minute_candles(three_days))
    late_trade = make_trade(1000, AT + DAY)
    lakes.add_trades(three_days.lake, [late_trade])
    assert not three_days.rebuild(MINUTE, [day_interval(AT + DAY)]).watermark_moved
    watermark = table_history.read_watermark(minute_candles(three_days))
    assert watermark.open_intervals == (day_interval(AT),)
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    assert three_days.refresh(MINUTE).plan.partitions == [day_interval(AT)]
    assert_refreshed(three_days, [*week_of_trades(), late_trade])


def rebuild_another_day(each_engine: EngineLake) -> None:
    each_engine.rebuild(MINUTE, [day_interval(AT + 2 * DAY)])


def commit_without_windows(each_engine: EngineLake) -> None:
    """Commit without a reconciled window, as retention and the history command do."""
    table = minute_candles(each_engine)
    commit_change(table, TableCommit(summary=carry_over_summary(table)))


OWN_COMMITS = [rebuild_another_day, commit_without_windows]


@pytest.mark.parametrize("own_commit", OWN_COMMITS)
def test_validation_finds_an_external_change_after_our_commit(
    three_days: EngineLake, own_commit: Callable[[EngineLake], None]
) -> None:
    """A commit that did not reconcile the changed day leaves it open."""
    delete_day(minute_candles(three_days))
    own_commit(three_days)
    watermark = table_history.read_watermark(minute_candles(three_days))
    assert (watermark.open_intervals, watermark.touched) == ((day_interval(AT),), (day_interval(AT),))
    failed_checks = {f.check for f in three_days.validate(MINUTE, [day_interval(AT)]) if not f.is_ok}
    assert "reconciles_with_trades" in failed_checks
    assert_refreshed(three_days, week_of_trades())


@pytest.mark.parametrize("own_commit", OWN_COMMITS)
def test_an_external_change_of_frozen_candles_is_logged_once(
    three_days: EngineLake, own_commit: Callable[[EngineLake], None]
) -> None:
    """The first command that leaves those candles unchanged logs it."""
    table_history.freeze_trades(three_days.lake.trades(), day_interval(AT + DAY).start)
    three_days.refresh(MINUTE)
    delete_day(minute_candles(three_days))
    with capture_logs() as logs:
        own_commit(three_days)
        three_days.refresh(MINUTE)
        three_days.refresh(MINUTE)
    reasons = [
        log["reason"] for log in logs if log["event"] == "another writer changed frozen or expired candles"
    ]
    assert [
        f"gold_ohlcv_1m in {AT:%Y-%m-%d}. The trades there have expired" in reason for reason in reasons
    ] == [True]
    assert preview_refresh(three_days.lake, MINUTE).is_current


def test_an_external_compaction_makes_no_window_dirty(three_days: EngineLake) -> None:
    """The table stays current."""
    table = minute_candles(three_days)
    table_history.compact_files(table, list(table.scan().plan_files()))
    assert not TableLag.measure(three_days.lake, MINUTE).is_stale
    assert preview_refresh(three_days.lake, MINUTE).is_current
