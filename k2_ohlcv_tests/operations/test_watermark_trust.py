"""Watermarks and trades tables that must not be trusted: rolled back, edited, replaced or missing."""

from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from structlog.testing import capture_logs

from k2_ohlcv.domain import trading_times
from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.errors import MissingTradesError, TableSpecError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.lake.metadata.table_stats import candles_status
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.schemas import NAMESPACE, TRADES_SPEC
from k2_ohlcv.lake.watermark import HEAD_PROPERTY, SNAPSHOT_PROPERTY, STATE_KEY
from k2_ohlcv.operations.reconcile import preview_refresh, rebuild, refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import DAILY, MINUTE, assert_refreshed, day_interval, minute_candles
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades

RENAMED = (NAMESPACE, "trades_elsewhere")


def test_a_rolled_back_candle_table_is_refreshed_again(three_days: EngineLake) -> None:
    """The property stays after a rollback. The snapshot summaries say which trades the candles equal."""
    before = table_history.current_snapshot_id(minute_candles(three_days))
    late_trade = make_trade(1000, AT + DAY)
    lakes.add_trades(three_days.lake, [late_trade])
    three_days.refresh(MINUTE)
    table_history.roll_back(minute_candles(three_days), before)
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    report = three_days.refresh(MINUTE)
    assert (report.plan.reason, report.counts.changed, len(report.plan.intervals)) == (None, 1, 1)
    assert_refreshed(three_days, [*week_of_trades(), late_trade])


def test_a_snapshot_summary_repeats_the_properties(three_days: EngineLake) -> None:
    """The summary has the same names and values."""
    table = minute_candles(three_days)
    snapshot = table.current_snapshot()
    summary = snapshot.summary.additional_properties
    assert (
        summary[SNAPSHOT_PROPERTY]
        == table.properties[SNAPSHOT_PROPERTY]
        == str(table_history.current_snapshot_id(three_days.lake.trades()))
    )
    assert summary[HEAD_PROPERTY] == table.properties[HEAD_PROPERTY]


@pytest.mark.parametrize("text", ['{"snapshot":1', '{"snapshot":1}', "[]", "null", '{"snapshot":1,"head":7}'])
def test_a_summary_that_cannot_be_read_is_no_watermark(three_days: EngineLake, text: str) -> None:
    """A cut summary, or one of another version, makes every window dirty and is reported."""
    table = minute_candles(three_days)
    rows = table.scan(row_filter=f"window_date == '{AT:%Y-%m-%d}'").to_arrow()
    table.append(rows, snapshot_properties={STATE_KEY: text})
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    assert "cannot be read" in (preview_refresh(three_days.lake, MINUTE).reason or "")
    assert_refreshed(three_days, week_of_trades())


def test_a_watermark_of_an_older_version_means_one_full_refresh(three_days: EngineLake) -> None:
    """A property without snapshot summaries proves nothing."""
    table = minute_candles(three_days)
    watermark_id = table.properties[SNAPSHOT_PROPERTY]
    three_days.lake.catalog.drop_table((NAMESPACE, MINUTE.table))
    new_table = three_days.lake.writable_candles(MINUTE)
    lakes.commit_candles(
        new_table, MINUTE, week_of_trades(), datetime.now(UTC), {SNAPSHOT_PROPERTY: watermark_id}
    )
    refresh_plan = preview_refresh(three_days.lake, MINUTE)
    assert not refresh_plan.is_current
    assert refresh_plan.reason is not None
    assert "an older version" in refresh_plan.reason
    assert_refreshed(three_days, week_of_trades())


def test_an_edited_property_is_not_trusted(three_days: EngineLake) -> None:
    """A newer snapshot id in the property hides no late trade."""
    late_trade = make_trade(1000, AT + DAY)
    current = table_history.current_snapshot_id(lakes.add_trades(three_days.lake, [late_trade]))
    table_history.set_properties(minute_candles(three_days), {SNAPSHOT_PROPERTY: str(current)})
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    assert_refreshed(three_days, [*week_of_trades(), late_trade])


def test_a_replaced_trades_table_is_another_one(three_days: EngineLake) -> None:
    """The table's uuid differs, even if a snapshot id is the same."""
    table = minute_candles(three_days)
    snapshot = table.current_snapshot()
    assert snapshot.summary is not None
    assert (
        str(three_days.lake.trades().metadata.table_uuid) in snapshot.summary.additional_properties[STATE_KEY]
    )
    three_days.lake.catalog.drop_table(TRADES_SPEC.identifier)
    new_trades = [make_trade(7, AT + timedelta(minutes=3), "55")]
    lakes.add_trades(three_days.lake, new_trades)
    assert "the trades table is another table" in (preview_refresh(three_days.lake, MINUTE).reason or "")
    assert_refreshed(three_days, new_trades)


def test_a_rebuild_at_other_trades_stays_open(three_days: EngineLake) -> None:
    """A stray trade is rebuilt into a candle, then trades are rolled back. The candle must be removed."""
    before = table_history.current_snapshot_id(three_days.lake.trades())
    lakes.add_trades(three_days.lake, [make_trade(1000, AT + DAY), make_trade(1001, AT + 2 * DAY)])
    three_days.rebuild(MINUTE, [day_interval(AT + DAY)])
    table_history.roll_back(three_days.lake.trades(), before)
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    assert_refreshed(three_days, week_of_trades())


def test_missing_trades_are_not_deleted_trades(three_days: EngineLake) -> None:
    """While the trades table is renamed, nothing is created or removed. Renaming it back repairs the lake."""
    catalog = three_days.lake.catalog
    candles = lakes.read_frame(three_days.lake, MINUTE)
    catalog.rename_table(TRADES_SPEC.identifier, RENAMED)
    for operation in (refresh, rebuild):
        with pytest.raises(MissingTradesError, match="Restore the trades table"):
            operation(three_days.lake, three_days.engine, MINUTE)
    with pytest.raises(MissingTradesError):
        TableLag.measure(three_days.lake, MINUTE)
    with pytest.raises(MissingTradesError):  # a missing table is not a failed check
        three_days.validate(MINUTE, [day_interval(AT)])
    assert candles_status(three_days.lake, MINUTE).lag is None
    assert not catalog.table_exists(TRADES_SPEC.identifier)
    assert lakes.read_frame(three_days.lake, MINUTE).equals(candles)
    catalog.rename_table(RENAMED, TRADES_SPEC.identifier)
    assert_refreshed(three_days, week_of_trades())


def test_reading_creates_no_table(sail: EngineLake) -> None:
    """Refresh, rebuild and validation of an empty lake create nothing."""
    for timeframe in TIMEFRAMES:
        sail.refresh(timeframe)
        sail.rebuild(timeframe)
        assert isinstance(sail.lake.candles(timeframe), MissingTable)
        sail.validate(timeframe, [day_interval(AT)])
    assert sail.lake.catalog.list_tables(NAMESPACE) == []


def test_a_new_trades_table_has_its_own_location(three_days: EngineLake) -> None:
    """In one shared location, orphan removal of one table would delete files of the other."""
    old_location = three_days.lake.trades().location()
    three_days.lake.catalog.rename_table(TRADES_SPEC.identifier, RENAMED)
    assert three_days.lake.writable_trades().location() != old_location
    three_days.lake.catalog.drop_table(TRADES_SPEC.identifier)
    three_days.lake.catalog.rename_table(RENAMED, TRADES_SPEC.identifier)


def test_candle_tables_store_frozen_before(three_days: EngineLake) -> None:
    """After expiry the trades table is replaced without the bound. The frozen candles stay."""
    bound = day_interval(AT + DAY).start
    trades = three_days.lake.trades()
    table_history.freeze_trades(trades, bound)
    late_trade = make_trade(1000, AT + DAY + timedelta(minutes=3))
    lakes.add_trades(three_days.lake, [late_trade])
    three_days.refresh_tables(MINUTE, DAILY)
    before = [c for c in aggregate([*week_of_trades(), late_trade], MINUTE) if c.window_start < bound]
    three_days.lake.catalog.drop_table(TRADES_SPEC.identifier)
    remaining = [t for t in [*week_of_trades(), late_trade] if t.timestamp >= bound + DAY]
    lakes.add_trades(three_days.lake, remaining)
    report = three_days.refresh(MINUTE)
    assert report.plan.skipped > 0
    assert lakes.read_candles(three_days.lake, MINUTE) == [*before, *aggregate(remaining, MINUTE)]


def test_a_future_trade_is_computed_later(three_days: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trade changes in between. The window was left out then, and is open now."""
    future_trade = make_trade(1000, datetime.now(UTC) + 4 * DAY)
    lakes.add_trades(three_days.lake, [future_trade])
    three_days.refresh(MINUTE)
    three_days.assert_equal_to_trades(week_of_trades(), MINUTE)
    assert preview_refresh(three_days.lake, MINUTE).is_current

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + 4 * DAY

    monkeypatch.setattr(trading_times, "datetime", Later)
    assert TableLag.measure(three_days.lake, MINUTE).is_stale
    three_days.refresh(MINUTE)
    three_days.assert_equal_to_trades([*week_of_trades(), future_trade], MINUTE)
    assert preview_refresh(three_days.lake, MINUTE).is_current


def test_an_unreadable_bound_is_named(three_days: EngineLake) -> None:
    """A time without a zone is UTC."""
    table_history.set_properties(minute_candles(three_days), {FROZEN_BEFORE: "soon"})
    with pytest.raises(TableSpecError, match=f"{FROZEN_BEFORE} of market_data.gold_ohlcv_1m is 'soon'"):
        three_days.refresh(MINUTE)
    table_history.set_properties(minute_candles(three_days), {FROZEN_BEFORE: f"{AT:%Y-%m-%d}"})
    assert preview_refresh(three_days.lake, MINUTE).is_current


def test_a_full_refresh_is_logged(three_days: EngineLake) -> None:
    """A watermark of another trades table does not count."""
    three_days.lake.catalog.drop_table(TRADES_SPEC.identifier)
    lakes.add_trades(three_days.lake, week_of_trades())
    with capture_logs() as logs:
        three_days.refresh(MINUTE)
    assert [log["reason"] for log in logs if log["event"] == "all windows are dirty"] != []
