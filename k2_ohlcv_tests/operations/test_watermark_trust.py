"""Nothing wrong is ever called current: rollbacks, foreign commits, other tables, refused windows, kills."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

import polars as pl
import pytest
from pyiceberg.expressions import EqualTo
from pyiceberg.table import Table
from structlog.testing import capture_logs

from k2_ohlcv.domain import trading_times
from k2_ohlcv.domain.candle import Trade, aggregate
from k2_ohlcv.domain.errors import MissingTradesError, TableSpecError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.lake.metadata.table_stats import candles_status
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.schemas import NAMESPACE, TRADES_SPEC
from k2_ohlcv.lake.watermark import HEAD_PROPERTY, SNAPSHOT_PROPERTY, STATE_KEY, Watermark, carry_over_summary
from k2_ohlcv.operations import plan_chunks, reconcile
from k2_ohlcv.operations.reconcile import preview_refresh, rebuild, refresh
from k2_ohlcv.operations.reports import RefusedWindowsError
from k2_ohlcv.operations.validate import validate
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import DAILY, MINUTE, day_interval
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades

RENAMED = (NAMESPACE, "trades_elsewhere")


@pytest.fixture
def started(sail: EngineLake) -> EngineLake:
    """Three days of trades in three appends, 1m and 1d up to date."""
    some = week_of_trades()
    for first in range(0, len(some), 48):
        lakes.add_trades(sail.lake, some[first : first + 48])
    for each in (MINUTE, DAILY):
        refresh(sail.lake, sail.engine, each)
    return sail


def minutes(each_engine: EngineLake) -> Table:
    return each_engine.lake.candles(MINUTE)


def assert_refreshed(each_engine: EngineLake, some: list[Trade]) -> None:
    """A refresh makes the tables equal to these trades, and the next one has nothing to do."""
    for each in (MINUTE, DAILY):
        refresh(each_engine.lake, each_engine.engine, each)
        assert preview_refresh(each_engine.lake, each).is_current
        assert not TableLag.measure(each_engine.lake, each).is_stale
    lakes.assert_equal_to_trades(each_engine.lake, some, [MINUTE, DAILY])


def test_a_rolled_back_candle_table_is_refreshed_again(started: EngineLake) -> None:
    """The property stays where it was; the snapshots say what the candles are equal to."""
    before = table_history.current_snapshot_id(minutes(started))
    late = make_trade(1000, AT + DAY)
    lakes.add_trades(started.lake, [late])
    refresh(started.lake, started.engine, MINUTE)
    table_history.roll_back(minutes(started), before)
    assert TableLag.measure(started.lake, MINUTE).is_stale
    report = refresh(started.lake, started.engine, MINUTE)
    assert (report.plan.reason, report.counts.changed, len(report.plan.intervals)) == (None, 1, 1)
    assert_refreshed(started, [*week_of_trades(), late])


def test_a_snapshot_says_what_it_made_true(started: EngineLake) -> None:
    """In its summary, under the names of the properties."""
    table = minutes(started)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    said = snapshot.summary.additional_properties
    assert (
        said[SNAPSHOT_PROPERTY]
        == table.properties[SNAPSHOT_PROPERTY]
        == str(table_history.current_snapshot_id(started.lake.trades()))
    )
    assert said[HEAD_PROPERTY] == table.properties[HEAD_PROPERTY]


def foreign_overwrite(table: Table) -> None:
    """Another writer doubles the volumes of a day."""
    rows = pl.DataFrame(table.scan().to_arrow()).filter(pl.col("window_date") == AT.date())
    doubled = rows.with_columns(volume=(pl.col("volume") * 2).cast(pl.Decimal(29, 8)))
    table.overwrite(doubled.to_arrow().cast(table.schema().as_arrow()), EqualTo("window_date", AT.date()))


def foreign_delete(table: Table) -> None:
    table.delete(EqualTo("window_date", AT.date()))


def foreign_append(table: Table) -> None:
    rows = table.scan(row_filter=EqualTo("window_date", AT.date())).to_arrow()
    table.append(rows)


FOREIGN = [foreign_overwrite, foreign_delete, foreign_append]


@pytest.mark.parametrize("commit", FOREIGN)
def test_what_another_writer_does_to_candles_is_noticed(
    started: EngineLake, commit: Callable[[Table], None]
) -> None:
    """Its partitions alone are reconciled, and validation does not look away."""
    commit(minutes(started))
    assert TableLag.measure(started.lake, MINUTE).is_stale
    assert TableLag.measure(started.lake, MINUTE).dirty_partitions() == [day_interval(AT)]
    broken = {
        f.check for f in validate(started.lake, started.engine, MINUTE, [day_interval(AT)]) if not f.is_ok
    }
    assert broken & {"reconciles_with_trades", "unique_windows"}
    report = refresh(started.lake, started.engine, MINUTE)
    assert report.plan.partitions == [day_interval(AT)]
    assert_refreshed(started, week_of_trades())


def test_freshness_says_what_another_writer_opened(started: EngineLake) -> None:
    """The trades are no newer, and yet the table is not up to date."""
    foreign_delete(minutes(started))
    notes = {f.check: f.note for f in validate(started.lake, started.engine, MINUTE, [day_interval(AT)])}
    assert "another writer changed" in notes["freshness"]


@pytest.mark.parametrize("text", ['{"snapshot":1', '{"snapshot":1}', "[]", "null", '{"snapshot":1,"head":7}'])
def test_a_summary_that_cannot_be_read_is_no_watermark(started: EngineLake, text: str) -> None:
    """Cut, or of a form of another version: everything is reconciled, and it is said."""
    table = minutes(started)
    rows = table.scan(row_filter=EqualTo("window_date", AT.date())).to_arrow()
    table.append(rows, snapshot_properties={STATE_KEY: text})
    assert TableLag.measure(started.lake, MINUTE).is_stale
    assert "cannot be read" in (preview_refresh(started.lake, MINUTE).reason or "")
    assert_refreshed(started, week_of_trades())


@pytest.mark.parametrize("commit", FOREIGN)
def test_a_commit_of_ours_vouches_for_its_own_partitions_only(
    started: EngineLake, commit: Callable[[Table], None]
) -> None:
    """A rebuild of another day on top leaves the damaged day open."""
    commit(minutes(started))
    late = make_trade(1000, AT + DAY)
    lakes.add_trades(started.lake, [late])
    assert not rebuild(started.lake, started.engine, MINUTE, [day_interval(AT + DAY)]).watermark_moved
    mark = Watermark.from_table(minutes(started))
    assert mark is not None
    assert mark.open_intervals == (day_interval(AT),)
    assert TableLag.measure(started.lake, MINUTE).is_stale
    assert refresh(started.lake, started.engine, MINUTE).plan.partitions == [day_interval(AT)]
    assert_refreshed(started, [*week_of_trades(), late])


def rebuild_another_day(each_engine: EngineLake) -> None:
    rebuild(each_engine.lake, each_engine.engine, MINUTE, [day_interval(AT + 2 * DAY)])


def move_the_clocks(each_engine: EngineLake) -> None:
    """As retention and the command for its lines do: a commit of ours that reconciles nothing."""
    table = minutes(each_engine)
    commit_change(table, TableCommit(summary=carry_over_summary(table)))


OURS = [rebuild_another_day, move_the_clocks]


@pytest.mark.parametrize("ours", OURS)
def test_what_another_writer_touched_is_looked_at_after_a_commit_of_ours(
    started: EngineLake, ours: Callable[[EngineLake], None]
) -> None:
    """A commit that did not reconcile it is no reason to look away either."""
    foreign_delete(minutes(started))
    ours(started)
    mark = Watermark.from_table(minutes(started))
    assert mark is not None
    assert (mark.open_intervals, mark.touched) == ((day_interval(AT),), (day_interval(AT),))
    broken = {
        f.check for f in validate(started.lake, started.engine, MINUTE, [day_interval(AT)]) if not f.is_ok
    }
    assert "reconciles_with_trades" in broken
    assert_refreshed(started, week_of_trades())


@pytest.mark.parametrize("ours", OURS)
def test_what_another_writer_does_to_frozen_candles_is_said_after_a_commit_of_ours(
    started: EngineLake, ours: Callable[[EngineLake], None]
) -> None:
    """Once, by the first command that leaves them as they are."""
    line = day_interval(AT + DAY).start.isoformat()
    started.lake.trades().transaction().set_properties({FROZEN_BEFORE: line}).commit_transaction()
    refresh(started.lake, started.engine, MINUTE)
    foreign_delete(minutes(started))
    with capture_logs() as logs:
        ours(started)
        refresh(started.lake, started.engine, MINUTE)
        refresh(started.lake, started.engine, MINUTE)
    said = [
        log["reason"] for log in logs if log["event"] == "another writer changed frozen or expired candles"
    ]
    assert [f"gold_ohlcv_1m in {AT:%Y-%m-%d}. The trades there have expired" in one for one in said] == [True]
    assert preview_refresh(started.lake, MINUTE).is_current


def test_another_writers_compaction_of_candles_dirties_nothing(started: EngineLake) -> None:
    table = minutes(started)
    table_history.compact_files(table, list(table.scan().plan_files()))
    assert not TableLag.measure(started.lake, MINUTE).is_stale
    assert preview_refresh(started.lake, MINUTE).is_current


def test_a_watermark_of_an_older_version_means_one_full_refresh(started: EngineLake) -> None:
    """Its snapshots say nothing: the property alone is no proof."""
    table = minutes(started)
    mark = table.properties[SNAPSHOT_PROPERTY]
    started.lake.catalog.drop_table((NAMESPACE, MINUTE.table))
    made = started.lake.writable_candles(MINUTE)
    lakes.commit_candles(made, MINUTE, week_of_trades(), datetime.now(UTC), {SNAPSHOT_PROPERTY: mark})
    found = preview_refresh(started.lake, MINUTE)
    assert not found.is_current
    assert found.reason is not None
    assert "an older version" in found.reason
    assert_refreshed(started, week_of_trades())


def test_a_property_that_somebody_sets_is_not_believed(started: EngineLake) -> None:
    late = make_trade(1000, AT + DAY)
    current = table_history.current_snapshot_id(lakes.add_trades(started.lake, [late]))
    minutes(started).transaction().set_properties({SNAPSHOT_PROPERTY: str(current)}).commit_transaction()
    assert TableLag.measure(started.lake, MINUTE).is_stale
    assert_refreshed(started, [*week_of_trades(), late])


def test_a_replaced_trades_table_is_another_one(started: EngineLake) -> None:
    """Even where the other table happens to hold a snapshot of the same id, the uuid tells them apart."""
    table = minutes(started)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert str(started.lake.trades().metadata.table_uuid) in snapshot.summary.additional_properties[STATE_KEY]
    started.lake.catalog.drop_table(TRADES_SPEC.identifier)
    other = [make_trade(7, AT + timedelta(minutes=3), "55")]
    lakes.add_trades(started.lake, other)
    assert "the trades table is another one" in (preview_refresh(started.lake, MINUTE).reason or "")
    assert_refreshed(started, other)


def test_a_rebuild_at_other_trades_stays_open(started: EngineLake) -> None:
    """A stray trade comes in, its day is rebuilt, and trades are rolled back: the candle must go."""
    before = table_history.current_snapshot_id(started.lake.trades())
    lakes.add_trades(started.lake, [make_trade(1000, AT + DAY), make_trade(1001, AT + 2 * DAY)])
    rebuild(started.lake, started.engine, MINUTE, [day_interval(AT + DAY)])
    table_history.roll_back(started.lake.trades(), before)
    assert TableLag.measure(started.lake, MINUTE).is_stale
    assert_refreshed(started, week_of_trades())


def test_missing_trades_are_not_deleted_trades(started: EngineLake) -> None:
    """While the trades table is renamed nothing is created and nothing removed, and the rename back works."""
    catalog = started.lake.catalog
    candles = lakes.read_frame(started.lake, MINUTE)
    catalog.rename_table(TRADES_SPEC.identifier, RENAMED)
    for run in (refresh, rebuild):
        with pytest.raises(MissingTradesError, match="Bring the table back"):
            run(started.lake, started.engine, MINUTE)
    with pytest.raises(MissingTradesError):
        TableLag.measure(started.lake, MINUTE)
    with pytest.raises(MissingTradesError):  # an outage is no failed check
        validate(started.lake, started.engine, MINUTE, [day_interval(AT)])
    assert candles_status(started.lake, MINUTE).lag is None
    assert not catalog.table_exists(TRADES_SPEC.identifier)
    assert lakes.read_frame(started.lake, MINUTE).equals(candles)
    catalog.rename_table(RENAMED, TRADES_SPEC.identifier)
    assert_refreshed(started, week_of_trades())


def test_reading_creates_no_table(sail: EngineLake) -> None:
    for each in TIMEFRAMES:
        refresh(sail.lake, sail.engine, each)
        rebuild(sail.lake, sail.engine, each)
        assert isinstance(sail.lake.candles(each), MissingTable)
        validate(sail.lake, sail.engine, each, [day_interval(AT)])
    assert sail.lake.catalog.list_tables(NAMESPACE) == []


def test_a_new_trades_table_lies_beside_a_renamed_one(started: EngineLake) -> None:
    """In one folder the clean-up of files that the one does not know would remove those of the other."""
    old = started.lake.trades().location()
    started.lake.catalog.rename_table(TRADES_SPEC.identifier, RENAMED)
    assert started.lake.writable_trades().location() != old
    started.lake.catalog.drop_table(TRADES_SPEC.identifier)
    started.lake.catalog.rename_table(RENAMED, TRADES_SPEC.identifier)


def test_candle_tables_remember_the_frozen_line(started: EngineLake) -> None:
    """Trades expired, the table created anew without them and without the line: the candles stay."""
    line = day_interval(AT + DAY).start
    trades = started.lake.trades()
    trades.transaction().set_properties({FROZEN_BEFORE: line.isoformat()}).commit_transaction()
    late = make_trade(1000, AT + DAY + timedelta(minutes=3))
    lakes.add_trades(started.lake, [late])
    for each in (MINUTE, DAILY):
        refresh(started.lake, started.engine, each)
    before = [c for c in aggregate([*week_of_trades(), late], MINUTE) if c.window_start < line]
    started.lake.catalog.drop_table(TRADES_SPEC.identifier)
    kept = [t for t in [*week_of_trades(), late] if t.timestamp >= line + DAY]
    lakes.add_trades(started.lake, kept)
    report = refresh(started.lake, started.engine, MINUTE)
    assert report.plan.skipped > 0
    assert lakes.read_candles(started.lake, MINUTE) == [*before, *aggregate(kept, MINUTE)]


def test_a_trade_ahead_of_its_time_comes_in_once_its_time_has_come(
    started: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although no trade has changed since: what was left out then is open now."""
    ahead = make_trade(1000, datetime.now(UTC) + 4 * DAY)
    lakes.add_trades(started.lake, [ahead])
    refresh(started.lake, started.engine, MINUTE)
    lakes.assert_equal_to_trades(started.lake, week_of_trades(), [MINUTE])
    assert preview_refresh(started.lake, MINUTE).is_current

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + 4 * DAY

    monkeypatch.setattr(trading_times, "datetime", Later)
    assert TableLag.measure(started.lake, MINUTE).is_stale
    refresh(started.lake, started.engine, MINUTE)
    lakes.assert_equal_to_trades(started.lake, [*week_of_trades(), ahead], [MINUTE])
    assert preview_refresh(started.lake, MINUTE).is_current


def test_a_bad_trade_among_good_ones_of_a_window_is_seen(started: EngineLake) -> None:
    """The volume of the window is positive all the same: the bounds of the file tell."""
    bad = make_trade("bad", week_of_trades()[0].timestamp, 100, "-0.05")
    lakes.add_trades(started.lake, [bad])
    with pytest.raises(RefusedWindowsError, match="positive_metrics"):
        refresh(started.lake, started.engine, MINUTE)
    lakes.assert_equal_to_trades(started.lake, week_of_trades(), [MINUTE])


def bad_trade(number: int, at: datetime, symbol: str = "BAD") -> Trade:
    """A trade of another writer, without any quantity."""
    return make_trade(number, at, 100, 0, market=("BINANCE", symbol))


def test_a_window_that_breaks_the_gate_holds_up_no_other(started: EngineLake) -> None:
    """All others are committed; it stays as it was, is named, and is read again until it is mended."""
    good = [make_trade(1000, AT + DAY), make_trade(1001, AT + 2 * DAY)]
    bad = bad_trade(1, AT + timedelta(minutes=1))
    lakes.add_trades(started.lake, [*good, bad])
    with pytest.raises(
        RefusedWindowsError, match=r"1 windows .* BINANCE BAD 2024-02-28T12:01:00Z"
    ) as refused:
        refresh(started.lake, started.engine, MINUTE)
    assert refused.value.report.counts.changed == 2
    lakes.assert_equal_to_trades(started.lake, [*week_of_trades(), *good], [MINUTE])
    assert TableLag.measure(started.lake, MINUTE).is_stale
    found = {f.check: f for f in validate(started.lake, started.engine, MINUTE, [day_interval(AT)])}
    assert not found["positive_metrics"].is_ok
    assert "BINANCE BAD" in found["positive_metrics"].note

    more = make_trade(1002, AT + timedelta(minutes=30))
    lakes.add_trades(started.lake, [more])
    with pytest.raises(RefusedWindowsError) as again:
        refresh(started.lake, started.engine, MINUTE)
    report = again.value.report
    assert {i.start for i in report.plan.intervals} == {bad.timestamp, more.timestamp}, "and no more"

    commits = len(minutes(started).snapshots())
    with pytest.raises(RefusedWindowsError):
        refresh(started.lake, started.engine, MINUTE)
    assert len(minutes(started).snapshots()) == commits, "nothing new to say"

    started.lake.trades().delete(EqualTo("symbol", "BAD"))
    assert_refreshed(started, [*week_of_trades(), *good, more])


def test_a_stored_candle_of_a_refused_window_stays(started: EngineLake) -> None:
    first = week_of_trades()[0]
    bad = make_trade("bad", first.timestamp, 100, "-0.5")
    lakes.add_trades(started.lake, [bad])
    with pytest.raises(RefusedWindowsError):
        refresh(started.lake, started.engine, MINUTE)
    lakes.assert_equal_to_trades(started.lake, week_of_trades(), [MINUTE])


def test_a_refresh_that_breaks_off_goes_on_where_it_stopped(
    started: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is not done again, although trades have gone on meanwhile."""
    monkeypatch.setattr(plan_chunks, "MAX_CHUNK_PARTITIONS", 1)
    late = [make_trade(1000 + n, AT + n * DAY + timedelta(minutes=5)) for n in range(3)]
    lakes.add_trades(started.lake, late)
    broken_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        refresh(started.lake, started.engine, MINUTE)
    monkeypatch.setattr(reconcile, "commit_change", REAL_COMMIT)
    assert TableLag.measure(started.lake, MINUTE).is_stale
    more = make_trade(2000, AT + timedelta(minutes=40))
    lakes.add_trades(started.lake, [more])
    report = refresh(started.lake, started.engine, MINUTE)
    assert [i.start for i in report.plan.intervals] == [more.timestamp, late[2].timestamp]
    assert_refreshed(started, [*week_of_trades(), *late, more])


def test_a_first_refresh_that_breaks_off_goes_on_too(
    sail: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakes.add_trades(sail.lake, week_of_trades())
    monkeypatch.setattr(plan_chunks, "MAX_CHUNK_PARTITIONS", 1)
    broken_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        refresh(sail.lake, sail.engine, MINUTE)
    monkeypatch.setattr(reconcile, "commit_change", REAL_COMMIT)
    report = refresh(sail.lake, sail.engine, MINUTE)
    assert report.plan.partitions == [day_interval(AT + 2 * DAY), day_interval(AT + 3 * DAY)]
    assert_refreshed(sail, week_of_trades())


REAL_COMMIT = reconcile.commit_change


def broken_after(monkeypatch: pytest.MonkeyPatch, commits: int) -> None:
    """The process is interrupted instead of the commit after so many."""
    left = [commits]

    def commit(*arguments: object) -> object:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return REAL_COMMIT(*arguments)

    monkeypatch.setattr(reconcile, "commit_change", commit)


@pytest.mark.parametrize("name", [FROZEN_BEFORE, EXPIRED_BEFORE])
def test_a_refused_window_behind_a_line_is_open_no_longer(started: EngineLake, name: str) -> None:
    """Nobody can mend it any more: else the table would be behind for ever."""
    lakes.add_trades(started.lake, [bad_trade(1, AT + timedelta(minutes=1))])
    with pytest.raises(RefusedWindowsError):
        refresh(started.lake, started.engine, MINUTE)
    table = started.lake.trades() if name == FROZEN_BEFORE else minutes(started)
    table.transaction().set_properties({name: day_interval(AT + DAY).start.isoformat()}).commit_transaction()
    refresh(started.lake, started.engine, MINUTE)
    assert preview_refresh(started.lake, MINUTE).is_current
    assert not TableLag.measure(started.lake, MINUTE).refused
    lakes.assert_equal_to_trades(started.lake, week_of_trades(), [MINUTE])


def test_a_line_that_is_no_moment_is_named(started: EngineLake) -> None:
    """One without a zone is taken as UTC."""
    minutes(started).transaction().set_properties({FROZEN_BEFORE: "soon"}).commit_transaction()
    with pytest.raises(TableSpecError, match=f"{FROZEN_BEFORE} of market_data.gold_ohlcv_1m is 'soon'"):
        refresh(started.lake, started.engine, MINUTE)
    minutes(started).transaction().set_properties({FROZEN_BEFORE: f"{AT:%Y-%m-%d}"}).commit_transaction()
    assert preview_refresh(started.lake, MINUTE).is_current


def test_a_refresh_of_everything_is_logged(started: EngineLake) -> None:
    """Also where the watermark counts no longer, as it is of another table."""
    started.lake.catalog.drop_table(TRADES_SPEC.identifier)
    lakes.add_trades(started.lake, week_of_trades())
    with capture_logs() as logs:
        refresh(started.lake, started.engine, MINUTE)
    assert [log["reason"] for log in logs if log["event"] == "all windows are dirty"] != []
