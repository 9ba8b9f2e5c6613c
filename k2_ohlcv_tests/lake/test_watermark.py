"""What a watermark states, keeps and forgets, without a trades table."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.watermark import (
    FINGERPRINT_PROPERTY,
    HEAD_PROPERTY,
    SNAPSHOT_PROPERTY,
    STATE_KEY,
    RefusedWindow,
    Watermark,
    carry_over_summary,
    explain_missing_watermark,
)
from k2_ohlcv_tests.support import table_history

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)


def minute(number: int) -> Interval:
    """The window of a minute after noon."""
    return MINUTE.window(AT + number * timedelta(minutes=1))


def refused(number: int, symbol: str | None = "S") -> RefusedWindow:
    return RefusedWindow("low_price", "E", symbol, minute(number))


#: A watermark whose attributes all differ from their defaults.
FULL = Watermark(
    snapshot_id=7,
    latest_trade_at=AT,
    fingerprint="of what",
    open_intervals=(minute(0), minute(5)),
    refused=(refused(0), refused(5, None)),
    complete=6,
    complete_latest_trade_at=AT - timedelta(hours=1),
    until=AT + timedelta(days=2),
    frozen_before=AT - timedelta(days=3),
)


def all_attributes(watermark: Watermark | None) -> dict[str, object]:
    """Every attribute, including those that equality ignores."""
    return vars(watermark) if watermark else {}


@pytest.fixture
def committed(lake: Lake) -> Lake:
    """The 1m table with the full watermark in its history and its properties."""
    table = lake.writable_candles(MINUTE)
    commit_change(table, TableCommit(properties=FULL.properties(), summary=FULL.summary()))
    return lake


@pytest.mark.parametrize(
    "watermark", [FULL, Watermark(7, None), replace(FULL, open_intervals=(), refused=())]
)
def test_a_summary_has_every_attribute(lake: Lake, watermark: Watermark) -> None:
    """Missing values are stored too: no latest trade, no complete snapshot, nothing open."""
    table = commit_change(
        lake.writable_candles(MINUTE),
        TableCommit(properties=watermark.properties(), summary=watermark.summary()),
    )
    assert all_attributes(Watermark.from_table(table)) == all_attributes(watermark)
    assert watermark.is_mirrored(table)


def test_a_summary_repeats_the_readable_properties() -> None:
    """The long fingerprint is in the watermark state alone."""
    assert FULL.properties() == {
        SNAPSHOT_PROPERTY: "6",
        HEAD_PROPERTY: "2024-02-28T11:00:00+00:00",
        FINGERPRINT_PROPERTY: "of what",
    }
    assert set(FULL.summary()) == {SNAPSHOT_PROPERTY, HEAD_PROPERTY, STATE_KEY}
    assert replace(FULL, complete_latest_trade_at=None).properties()[HEAD_PROPERTY] == ""


def test_an_incomplete_watermark_has_no_properties() -> None:
    """No property claims a complete snapshot before the first one."""
    assert replace(FULL, complete=None).properties() == {}


def test_a_summary_without_frozen_before_is_accepted(lake: Lake) -> None:
    """An older version wrote it. Its bound is unknown."""
    state = json.loads(FULL.summary()[STATE_KEY])
    del state["frozen"]
    summary = {STATE_KEY: json.dumps(state)}
    table = commit_change(
        lake.writable_candles(MINUTE), TableCommit(properties=FULL.properties(), summary=summary)
    )
    assert all_attributes(Watermark.from_table(table)) == all_attributes(replace(FULL, frozen_before=None))


def test_reconciled_windows_are_closed() -> None:
    """Their refused windows are forgotten."""
    after = replace(FULL, touched=(minute(0),)).with_reconciled([minute(0), minute(1)], [])
    assert all_attributes(after) == all_attributes(
        replace(FULL, open_intervals=(minute(5),), refused=(refused(5, None),))
    )
    assert not after.is_complete


def test_newly_refused_windows_stay_open() -> None:
    """They are listed after the earlier refused windows."""
    after = FULL.with_reconciled([minute(0)], [refused(0, "T")])
    assert after.open_intervals == (minute(0), minute(5))
    assert after.refused == (refused(5, None), refused(0, "T"))


def test_the_last_step_makes_the_snapshot_complete() -> None:
    """No window is open any more."""
    after = FULL.with_reconciled([minute(0), minute(5)], [])
    assert after.is_complete
    assert (after.complete, after.complete_latest_trade_at) == (7, AT)


def test_of_many_refused_windows_some_are_named_and_all_are_open() -> None:
    """Fifty refused windows are named."""
    windows = [refused(2 * i) for i in range(60)]
    after = Watermark(7, AT, open_intervals=(minute(0),)).with_reconciled([minute(0)], windows)
    assert after.refused == tuple(windows[:50])
    assert after.open_intervals == tuple(r.window for r in windows)


def test_a_summary_lists_a_bounded_number_of_open_intervals() -> None:
    """The narrowest gaps are closed, so every open window is included."""
    scattered = [minute(2 * i) for i in range(100)] + [minute(1000 + 5 * i) for i in range(50)]
    with_open_windows = Watermark(7, AT, open_intervals=(minute(-10),)).with_open(scattered)
    assert len(with_open_windows.open_intervals) == 128
    assert with_open_windows.open_intervals[0] == minute(-10)
    assert with_open_windows.open_intervals[-50:] == tuple(scattered[-50:])
    assert minute(1) == Interval(minute(0).end, minute(2).start)


def test_edited_properties_do_not_mirror_the_watermark(committed: Lake) -> None:
    """The watermark itself is read from the history."""
    table = committed.candles(MINUTE)
    table_history.set_properties(table, {HEAD_PROPERTY: ""})
    assert not FULL.is_mirrored(table)
    assert all_attributes(Watermark.from_table(table)) == all_attributes(FULL)


def test_a_removed_property_removes_the_watermark(committed: Lake) -> None:
    """The reason says so."""
    table = committed.candles(MINUTE)
    table_history.forget_watermark(table)
    assert Watermark.from_table(table) is None
    assert explain_missing_watermark(table) == "the watermark was removed"


def test_an_incomplete_table_needs_no_property(lake: Lake) -> None:
    """Commits of an unfinished first refresh count."""
    incomplete = replace(FULL, complete=None, complete_latest_trade_at=None)
    table = commit_change(lake.writable_candles(MINUTE), TableCommit(summary=incomplete.summary()))
    assert all_attributes(Watermark.from_table(table)) == all_attributes(incomplete)


def test_a_property_without_history_is_no_watermark(lake: Lake) -> None:
    """The reason names the trades snapshot."""
    table = lake.writable_candles(MINUTE)
    assert explain_missing_watermark(table) == "the table has no watermark yet"
    table_history.set_properties(table, {SNAPSHOT_PROPERTY: "6"})
    assert Watermark.from_table(table) is None
    assert explain_missing_watermark(table).startswith(
        "the watermark, trades snapshot 6, is not in the table's history"
    )


def test_a_commit_without_windows_keeps_the_watermark(committed: Lake) -> None:
    """Other tables have none."""
    table = committed.candles(MINUTE)
    assert carry_over_summary(table) == FULL.summary()
    assert carry_over_summary(committed.writable_trades()) == {}
    assert carry_over_summary(committed.writable_candles(find_timeframe("5m"))) == {}
