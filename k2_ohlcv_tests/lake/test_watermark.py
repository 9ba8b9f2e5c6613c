"""What a watermark says, keeps and forgets, without any table of trades."""

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
    return MINUTE.window(AT + number * timedelta(minutes=1))


def refused(number: int, symbol: str | None = "S") -> RefusedWindow:
    return RefusedWindow("low_price", "E", symbol, minute(number))


#: A watermark of which every attribute has a value of its own.
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


def all_of(mark: Watermark | None) -> dict[str, object]:
    """Every attribute, those that equality leaves out too."""
    return vars(mark) if mark else {}


@pytest.fixture
def committed(lake: Lake) -> Lake:
    """The 1m table, with the full watermark in its history and its properties."""
    table = lake.writable_candles(MINUTE)
    commit_change(table, TableCommit(properties=FULL.properties(), summary=FULL.summary()))
    return lake


@pytest.mark.parametrize("mark", [FULL, Watermark(7, None), replace(FULL, open_intervals=(), refused=())])
def test_a_summary_says_all_of_a_watermark(lake: Lake, mark: Watermark) -> None:
    """Also where it says that there is no head, no complete snapshot and nothing open."""
    table = commit_change(
        lake.writable_candles(MINUTE), TableCommit(properties=mark.properties(), summary=mark.summary())
    )
    assert all_of(Watermark.from_table(table)) == all_of(mark)
    assert mark.is_mirrored(table)


def test_a_summary_repeats_the_properties_for_people() -> None:
    """The fingerprint is long, and stands in the watermark itself."""
    assert FULL.properties() == {
        SNAPSHOT_PROPERTY: "6",
        HEAD_PROPERTY: "2024-02-28T11:00:00+00:00",
        FINGERPRINT_PROPERTY: "of what",
    }
    assert set(FULL.summary()) == {SNAPSHOT_PROPERTY, HEAD_PROPERTY, STATE_KEY}
    assert replace(FULL, complete_latest_trade_at=None).properties()[HEAD_PROPERTY] == ""


def test_nothing_is_said_to_be_complete_before_the_first_time() -> None:
    assert replace(FULL, complete=None).properties() == {}


def test_a_summary_without_a_frozen_line_is_of_an_older_version(lake: Lake) -> None:
    """It still counts: what lay behind the line then is not known."""
    state = json.loads(FULL.summary()[STATE_KEY])
    del state["frozen"]
    summary = {STATE_KEY: json.dumps(state)}
    table = commit_change(
        lake.writable_candles(MINUTE), TableCommit(properties=FULL.properties(), summary=summary)
    )
    assert all_of(Watermark.from_table(table)) == all_of(replace(FULL, frozen_before=None))


def test_what_is_reconciled_is_closed_and_its_refused_windows_forgotten() -> None:
    after = replace(FULL, touched=(minute(0),)).with_reconciled([minute(0), minute(1)], [])
    assert all_of(after) == all_of(replace(FULL, open_intervals=(minute(5),), refused=(refused(5, None),)))
    assert not after.is_complete


def test_windows_that_are_refused_anew_stay_open_behind_those_before() -> None:
    after = FULL.with_reconciled([minute(0)], [refused(0, "T")])
    assert after.open_intervals == (minute(0), minute(5))
    assert after.refused == (refused(5, None), refused(0, "T"))


def test_the_last_step_makes_the_snapshot_complete() -> None:
    after = FULL.with_reconciled([minute(0), minute(5)], [])
    assert after.is_complete
    assert (after.complete, after.complete_latest_trade_at) == (7, AT)


def test_of_many_refused_windows_some_are_named_and_all_are_open() -> None:
    many = [refused(2 * i) for i in range(60)]
    after = Watermark(7, AT, open_intervals=(minute(0),)).with_reconciled([minute(0)], many)
    assert after.refused == tuple(many[:50])
    assert after.open_intervals == tuple(r.window for r in many)


def test_a_summary_lists_a_bounded_number_of_open_intervals() -> None:
    """The narrowest gaps are filled, so that nothing open is left out."""
    scattered = [minute(2 * i) for i in range(100)] + [minute(1000 + 5 * i) for i in range(50)]
    opened = Watermark(7, AT, open_intervals=(minute(-10),)).with_open(scattered)
    assert len(opened.open_intervals) == 128
    assert opened.open_intervals[0] == minute(-10)
    assert opened.open_intervals[-50:] == tuple(scattered[-50:])
    assert minute(1) == Interval(minute(0).end, minute(2).start)


def test_properties_that_somebody_changed_mirror_nothing(committed: Lake) -> None:
    table = committed.candles(MINUTE)
    table_history.set_properties(table, {HEAD_PROPERTY: ""})
    assert not FULL.is_mirrored(table)
    assert all_of(Watermark.from_table(table)) == all_of(FULL)


def test_a_removed_property_takes_the_watermark_away(committed: Lake) -> None:
    table = committed.candles(MINUTE)
    table_history.forget_watermark(table)
    assert Watermark.from_table(table) is None
    assert explain_missing_watermark(table) == "the watermark was removed"


def test_a_table_that_was_never_complete_needs_no_property(lake: Lake) -> None:
    """What is done of the first refresh counts, although no property says it."""
    first = replace(FULL, complete=None, complete_latest_trade_at=None)
    table = commit_change(lake.writable_candles(MINUTE), TableCommit(summary=first.summary()))
    assert all_of(Watermark.from_table(table)) == all_of(first)


def test_a_property_without_a_history_is_named(lake: Lake) -> None:
    table = lake.writable_candles(MINUTE)
    assert explain_missing_watermark(table) == "the table has no watermark yet"
    table_history.set_properties(table, {SNAPSHOT_PROPERTY: "6"})
    assert Watermark.from_table(table) is None
    assert explain_missing_watermark(table).startswith(
        "the watermark, trades snapshot 6, is not in the table's history"
    )


def test_a_commit_that_reconciles_nothing_carries_the_watermark(committed: Lake) -> None:
    table = committed.candles(MINUTE)
    assert carry_over_summary(table) == FULL.summary()
    assert carry_over_summary(committed.writable_trades()) == {}
    assert carry_over_summary(committed.writable_candles(find_timeframe("5m"))) == {}
