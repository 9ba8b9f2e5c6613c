"""The watermark after commits of other writers: what they touched is open, and nothing open is forgotten."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform

from k2_ohlcv.domain.intervals import DAY, Interval, coalesce
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.watermark import RefusedWindow, Watermark, explain_missing_watermark
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
DAYS = [Grain.DAY.partition(AT + number * DAY) for number in range(4)]


def window(minute: int) -> Interval:
    return MINUTE.window(AT + timedelta(minutes=minute))


def commit_watermark(lake: Lake, watermark: Watermark) -> Table:
    """Commit a candle on each of three days, with a watermark."""
    trades = [make_trade(i, AT + i * DAY, market=("X", "Y")) for i in range(3)]
    properties, summary = watermark.properties(), watermark.summary()
    return lakes.commit_candles(
        lake.writable_candles(MINUTE), MINUTE, trades, AT + 9 * DAY, properties, summary
    )


def delete_day(table: Table, number: int) -> None:
    """Delete a day's candles, as another writer does."""
    table.refresh()
    table.delete(f"window_date == '{AT + number * DAY:%Y-%m-%d}'")


def append_day_again(table: Table, number: int) -> None:
    """Append a day's candles again, as another writer does."""
    table.refresh()
    table.append(table.scan(row_filter=f"window_date == '{AT + number * DAY:%Y-%m-%d}'").to_arrow())


@pytest.mark.parametrize("external_commit", [delete_day, append_day_again])
def test_an_external_commit_opens_its_partition(
    lake: Lake, external_commit: Callable[[Table, int], None]
) -> None:
    """Removed and added files count. Each further commit opens its partition too."""
    table = commit_watermark(lake, Watermark(7, AT, complete=7))
    external_commit(table, 0)
    watermark = table_history.read_watermark(lake.candles(MINUTE))
    assert (watermark.open_intervals, watermark.touched) == ((DAYS[0],), (DAYS[0],))
    external_commit(table, 2)
    watermark = table_history.read_watermark(lake.candles(MINUTE))
    assert (watermark.open_intervals, watermark.touched) == ((DAYS[0], DAYS[2]), (DAYS[0], DAYS[2]))
    assert (watermark.snapshot_id, watermark.complete, watermark.is_complete) == (7, 7, False)


def test_open_intervals_stay_open_after_an_external_commit(lake: Lake) -> None:
    """An unfinished refresh and an earlier external commit are not forgotten."""
    refused = RefusedWindow("low_price", "X", "Y", window(0))
    stored = Watermark(7, AT, "f", (window(0), DAYS[3]), (refused,), touched=(DAYS[3],))
    delete_day(commit_watermark(lake, stored), 2)
    watermark = table_history.read_watermark(lake.candles(MINUTE))
    assert watermark.open_intervals == (window(0), Interval(DAYS[2].start, DAYS[3].end))
    assert watermark.touched == (Interval(DAYS[2].start, DAYS[3].end),)
    assert (watermark.refused, watermark.snapshot_id, watermark.fingerprint) == ((refused,), 7, "f")


def test_a_summary_has_the_touched_intervals(lake: Lake) -> None:
    """A later commit of this project keeps what other writers touched."""
    stored = Watermark(7, AT, open_intervals=(DAYS[0], DAYS[2]), touched=(DAYS[2],))
    assert table_history.read_watermark(commit_watermark(lake, stored)) == stored
    assert stored.with_reconciled([DAYS[0]], []).touched == (DAYS[2],)
    assert stored.with_reconciled([DAYS[2]], []).touched == ()
    refused = RefusedWindow("low_price", "X", "Y", MINUTE.window(AT + 2 * DAY))
    assert stored.with_reconciled([DAYS[2]], [refused]).touched == ()


def test_an_external_compaction_opens_nothing(lake: Lake) -> None:
    """Only the commits after and before it do."""
    table = commit_watermark(lake, Watermark(7, AT, complete=7))
    delete_day(table, 0)
    table.refresh()
    table_history.compact_files(table, list(table.scan().plan_files()))
    assert table_history.read_watermark(lake.candles(MINUTE)).open_intervals == (DAYS[0],)
    delete_day(table, 2)
    assert table_history.read_watermark(lake.candles(MINUTE)).open_intervals == (DAYS[0], DAYS[2])


def test_an_external_commit_of_another_partitioning_leaves_no_watermark(lake: Lake) -> None:
    """The partitions of its files are unknown, so everything is dirty, although the partitioning is back."""
    table = commit_watermark(lake, Watermark(7, AT, complete=7))
    with table.update_spec() as update:
        update.add_field("symbol", IdentityTransform(), "market")
    table.refresh()
    table_history.rewrite_files(table, list(table.scan().plan_files())[:1], lambda rows: rows)
    with table.update_spec() as update:
        update.remove_field("market")
    table = lake.candles(MINUTE)
    assert Watermark.from_table(table) is None
    assert explain_missing_watermark(table).startswith("the watermark, trades snapshot 7, is not in")


def test_an_external_commit_over_an_expired_one_leaves_no_watermark(lake: Lake) -> None:
    """The partitions of the expired commit are unknown, so everything is dirty."""
    table = commit_watermark(lake, Watermark(7, AT, complete=7))
    delete_day(table, 0)
    expired = table_history.current_snapshot_id(table.refresh())
    delete_day(table, 2)
    table_history.expire_snapshot(table.refresh(), expired)
    assert Watermark.from_table(lake.candles(MINUTE)) is None


def test_a_row_in_the_file_of_another_partition_opens_both(lake: Lake) -> None:
    """Reconciling the file's partition removes the row. The partition of the row's time may differ too."""
    table = commit_watermark(lake, Watermark(7, AT, complete=7))
    row_day = Grain.DAY.partition(table.scan().to_arrow().slice(0, 1)["window_start"][0].as_py())
    table_history.add_to_wrong_day(table, DAYS[3].start)
    watermark = table_history.read_watermark(lake.candles(MINUTE))
    assert watermark.open_intervals == tuple(coalesce([row_day, DAYS[3]]))


def test_an_unreadable_summary_leaves_no_watermark(lake: Lake) -> None:
    """An older readable watermark does not count, because later windows are unknown."""
    table = commit_watermark(lake, Watermark(7, AT, complete=7))
    broken = {key: text[:-5] for key, text in Watermark(8, AT, complete=8).summary().items()}
    commit_change(table, TableCommit(summary=broken))
    assert Watermark.from_table(lake.candles(MINUTE)) is None
    delete_day(lake.candles(MINUTE), 0)
    assert Watermark.from_table(lake.candles(MINUTE)) is None
