"""`frozen_before` of an external trades table: the latest-trade time that it is measured from."""

from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.history_bounds import (
    FROZEN_BEFORE,
    frozen_before_update,
    latest_trade_at,
    read_frozen_before,
)
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
NEWEST_AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
KEPT = 5 * DAY


@pytest.fixture
def owner_table(lake: Lake) -> Table:
    """An external table of three days of trades."""
    trades = [vars(make_trade(i, NEWEST_AT - i * DAY, market=("X", "Y"))) for i in range(3)]
    return external_tables.create_table(lake, external_tables.EXACT_COLUMNS, trades)


def open_lake(lake: Lake, table: Table, retention: timedelta | None = KEPT) -> Lake:
    return Lake(lake.catalog, ExternalTradesConfig(table.name(), retention=retention))


def commit_watermark(lake: Lake, latest: datetime | None, snapshot: int) -> None:
    """Commit a watermark with a latest-trade time."""
    mark = Watermark(snapshot, latest).with_reconciled([], ())
    commit_change(
        lake.writable_candles(MINUTE), TableCommit(properties=mark.properties(), summary=mark.summary())
    )


def read_bound(lake: Lake) -> tuple[datetime | None, datetime | None]:
    """The latest-trade time and `frozen_before`."""
    candles, trades = lake.candles(MINUTE), lake.trades()
    return latest_trade_at(candles, trades), read_frozen_before(candles, trades, datetime.now(UTC))


@pytest.mark.parametrize(
    ("watermark", "latest"), [(None, 0 * DAY), (-DAY, 0 * DAY), (0 * DAY, 0 * DAY), (DAY, DAY)]
)
def test_the_later_of_newest_trade_and_watermark_counts(
    lake: Lake, owner_table: Table, watermark: timedelta | None, latest: timedelta
) -> None:
    """A rollback by the owner moves nothing back, and new trades move it forward."""
    external = open_lake(lake, owner_table)
    snapshot = table_history.current_snapshot_id(owner_table)
    commit_watermark(external, None if watermark is None else NEWEST_AT + watermark, snapshot)
    assert read_bound(external) == (NEWEST_AT + latest, NEWEST_AT + latest - KEPT)


@pytest.mark.parametrize("is_future", [True, False])
def test_a_watermark_of_the_future_or_of_another_table_is_ignored(
    lake: Lake, owner_table: Table, is_future: bool
) -> None:
    """Otherwise one wrong time would freeze everything for ever."""
    external = open_lake(lake, owner_table)
    snapshot = table_history.current_snapshot_id(owner_table)
    latest = datetime.now(UTC) + 400 * DAY if is_future else NEWEST_AT + 100 * DAY
    commit_watermark(external, latest, snapshot if is_future else snapshot + 1)
    assert read_bound(external) == (NEWEST_AT, NEWEST_AT - KEPT)


def test_an_emptied_table_keeps_its_latest_trade(lake: Lake, owner_table: Table) -> None:
    """The owner may delete all trades. Candles of expired trades stay frozen."""
    external = open_lake(lake, owner_table)
    commit_watermark(external, NEWEST_AT, table_history.current_snapshot_id(owner_table))
    owner_table.delete("price > 0")
    assert read_bound(external) == (NEWEST_AT, NEWEST_AT - KEPT)


def test_without_a_setting_the_newest_trade_counts(lake: Lake, owner_table: Table) -> None:
    """Nothing expires, so the latest-trade time may move back, and nothing is frozen."""
    external = open_lake(lake, owner_table, retention=None)
    commit_watermark(external, NEWEST_AT + DAY, table_history.current_snapshot_id(owner_table))
    assert read_bound(external) == (NEWEST_AT, None)


def test_the_bound_of_an_external_table_is_not_copied(lake: Lake, owner_table: Table) -> None:
    """The owner may correct it. A copy in the candle table would stay."""
    table_history.freeze_trades(owner_table, NEWEST_AT)
    external = open_lake(lake, owner_table, retention=None)
    candles = lake.writable_candles(MINUTE)
    assert frozen_before_update(candles, external.trades()) == {}
    own = lakes.add_trades(lake, [make_trade(1, NEWEST_AT)])
    table_history.freeze_trades(own, NEWEST_AT)
    assert frozen_before_update(candles, lake.trades()) == {FROZEN_BEFORE: NEWEST_AT.isoformat()}
