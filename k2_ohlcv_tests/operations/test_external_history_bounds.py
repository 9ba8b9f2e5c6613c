"""Someone else drops old trades: `K2_TRADES_KEPT` says how old, and the candles that came from them stay."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.table import Table
from pyiceberg.types import DecimalType, StringType, TimestamptzType

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY, MICROSECOND
from k2_ohlcv.domain.timeframe import Grain, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.history_bounds import HistoryBounds
from k2_ohlcv.operations.reconcile import preview_refresh, rebuild, refresh
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import make_trade

MINUTE, DAILY = find_timeframe("1m"), find_timeframe("1d")
BOTH = (MINUTE, DAILY)
FIRST = datetime(2024, 2, 25, 12, tzinfo=UTC)
KEPT = 5 * DAY
COLUMNS = {
    "exchange": StringType(),
    "symbol": StringType(),
    "trade_id": StringType(),
    "timestamp": TimestamptzType(),
    "price": DecimalType(18, 8),
    "quantity": DecimalType(19, 8),
}


def trade(number: int, at: datetime) -> Trade:
    return make_trade(number, at, number % 7 + 1, 2, market=("X", "A"))


#: Ten days of a trade each; the line is at noon of the fifth, where a trade is still kept.
SOME = [trade(i, FIRST + i * DAY) for i in range(10)]
HEAD = SOME[-1].timestamp
LINE = HEAD - KEPT


def append(table: Table, some: Iterable[Trade]) -> None:
    external_tables.add_rows(table, map(vars, some))


def lake_of(
    each_engine: EngineLake, some: Iterable[Trade], kept: timedelta | None = KEPT
) -> tuple[Lake, Table]:
    """Someone else's trades, a file a day, and all tables made of them while they were all there."""
    table = external_tables.create_table(each_engine.lake, COLUMNS)
    for one in some:
        append(table, [one])
    ever = Lake(each_engine.lake.catalog, ExternalTradesConfig(table.name()))
    for each in BOTH:
        refresh(ever, each_engine.engine, each)
    assert ever.source is not None
    return Lake(ever.catalog, replace(ever.source, retention=kept)), table


def drop_old(table: Table) -> list[Trade]:
    """As the owner does, to the very line."""
    table.refresh()
    table.delete(f"timestamp < '{LINE.isoformat()}'")
    return [t for t in SOME if t.timestamp < LINE]


def line(lake: Lake) -> datetime | None:
    return HistoryBounds.from_tables(lake.candles(MINUTE), lake.trades(), MINUTE).frozen_before


def test_candles_of_trades_that_are_not_kept_stay(sail: EngineLake) -> None:
    """Refresh counts them as frozen windows, and goes on with what is ahead of the line."""
    lake, table = lake_of(sail, SOME)
    gone = drop_old(table)
    late = [trade(100, FIRST), trade(101, HEAD - DAY)]
    append(table, late)
    for each in BOTH:
        report = refresh(lake, sail.engine, each)
        assert report.plan.skipped > 0
        assert report.counts.removed == 0
        assert report.watermark_moved
    assert len(gone) == 4
    lakes.assert_equal_to_trades(lake, [*SOME, late[1]], BOTH)


def test_without_the_setting_they_count_as_deleted(sail: EngineLake) -> None:
    lake, table = lake_of(sail, SOME, kept=None)
    drop_old(table)
    for each in BOTH:
        assert refresh(lake, sail.engine, each).plan.skipped == 0
    lakes.assert_equal_to_trades(lake, [t for t in SOME if t.timestamp >= LINE], BOTH)


def test_reconciling_everything_keeps_them(sail: EngineLake) -> None:
    lake, table = lake_of(sail, SOME)
    drop_old(table)
    for each in BOTH:
        assert rebuild(lake, sail.engine, each).counts.removed == 0
        table_history.forget_watermark(lake.candles(each))
        report = refresh(lake, sail.engine, each)
        assert report.plan.reason
        assert (report.counts.removed, report.plan.skipped > 0) == (0, True)
    lakes.assert_equal_to_trades(lake, SOME, BOTH)


def test_a_rebuild_behind_the_line_is_refused_with_the_setting(sail: EngineLake) -> None:
    lake, table = lake_of(sail, SOME)
    drop_old(table)
    with pytest.raises(UsageError, match=r"2024-02-25 are frozen: .*K2_TRADES_KEPT"):
        rebuild(lake, sail.engine, MINUTE, [Grain.DAY.partition(FIRST)])
    lakes.assert_equal_to_trades(lake, SOME, BOTH)


def test_the_line_follows_the_newest_trade(sail: EngineLake) -> None:
    """A trade that claims to be of a time that is still to come freezes nothing."""
    lake, table = lake_of(sail, SOME)
    assert line(lake) == LINE
    append(table, [trade(100, HEAD + DAY)])
    assert line(lake) == LINE + DAY
    append(table, [trade(101, datetime.now(UTC) + 400 * DAY)])
    assert line(lake) == LINE + DAY


def test_the_line_never_goes_back(sail: EngineLake) -> None:
    """The owner rolls the table back by three days: what was behind the line has gone all the same."""
    lake, table = lake_of(sail, SOME)
    drop_old(table)
    table.delete(f"timestamp > '{(HEAD - 3 * DAY + MICROSECOND).isoformat()}'")
    assert line(lake) == LINE
    for each in BOTH:
        refresh(lake, sail.engine, each)
        mark = table_history.read_watermark(lake.candles(each))
        assert mark.latest_trade_at == HEAD
    assert line(lake) == LINE
    with pytest.raises(UsageError, match="frozen"):
        rebuild(lake, sail.engine, MINUTE, [Grain.DAY.partition(FIRST + 3 * DAY)])
    lakes.assert_equal_to_trades(lake, [t for t in SOME if t.timestamp <= HEAD - 3 * DAY], BOTH)


@pytest.mark.parametrize("right", [100 * DAY, None])
def test_a_setting_that_was_too_short_is_put_right(sail: EngineLake, right: timedelta | None) -> None:
    """What changed behind the line that it made is made good, and candles without trades stay."""
    lake, table = lake_of(sail, SOME)
    table.refresh()
    table.delete(f"timestamp < '{(FIRST + DAY).isoformat()}'")
    late = trade(100, FIRST + 2 * DAY)
    append(table, [late])
    for each in BOTH:
        assert refresh(lake, sail.engine, each).plan.skipped > 0
    assert lake.source is not None
    lake = Lake(lake.catalog, replace(lake.source, retention=right))
    for each in BOTH:
        assert not preview_refresh(lake, each).is_current
        refresh(lake, sail.engine, each)
        assert preview_refresh(lake, each).is_current
    lakes.assert_equal_to_trades(lake, [*SOME, late], [MINUTE])


def test_longer_than_there_is_time_freezes_nothing(sail: EngineLake) -> None:
    lake, _ = lake_of(sail, SOME, kept=timedelta(days=999_999))
    assert line(lake) is None


def test_their_own_line_counts_too(sail: EngineLake) -> None:
    """Their table may be another K2's, which says where its trades begin."""
    lake, table = lake_of(sail, SOME, kept=None)
    assert line(lake) is None
    table_history.set_properties(table, {"k2.frozen-before": (LINE + DAY).isoformat()})
    assert line(lake) == LINE + DAY
    assert lake.source is not None
    assert line(Lake(lake.catalog, replace(lake.source, retention=KEPT))) == LINE + DAY


def test_the_head_of_another_table_says_nothing(sail: EngineLake) -> None:
    """Candles followed this table; now they follow an older one, whose trades are all still to come."""
    lake, _ = lake_of(sail, SOME)
    older = external_tables.create_table(sail.lake, COLUMNS)
    append(older, [replace(SOME[0], timestamp=FIRST - 100 * DAY)])
    assert lake.source is not None
    assert line(Lake(lake.catalog, replace(lake.source, identifier=older.name()))) == FIRST - 100 * DAY - KEPT


def test_files_that_do_not_say_their_times_reach_to_now(sail: EngineLake) -> None:
    table = external_tables.create_table(
        sail.lake, COLUMNS, map(vars, SOME), properties={"write.metadata.metrics.default": "none"}
    )
    found = line(Lake(sail.lake.catalog, ExternalTradesConfig(table.name(), retention=KEPT)))
    assert found is not None
    assert timedelta(0) <= datetime.now(UTC) - KEPT - found < timedelta(minutes=10)
